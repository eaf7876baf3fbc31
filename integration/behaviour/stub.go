package behaviour

var mmapCases []testCase
var raceCases []testCase
var exerciseCases []testCase
