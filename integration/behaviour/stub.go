package behaviour

var exerciseCases []testCase
