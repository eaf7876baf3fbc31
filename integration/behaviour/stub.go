package behaviour

var xattrCases []testCase
var aclCases []testCase
var lockCases []testCase
var specialCases []testCase
var flagCases []testCase
var mmapCases []testCase
var raceCases []testCase
var exerciseCases []testCase
