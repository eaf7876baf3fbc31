package behaviour

var renameCases []testCase
var linkCases []testCase
var unlinkedCases []testCase
var readdirCases []testCase
var xattrCases []testCase
var aclCases []testCase
var lockCases []testCase
var specialCases []testCase
var flagCases []testCase
var mmapCases []testCase
var raceCases []testCase
var exerciseCases []testCase
