package behaviour

func timeCases() []testCase { return nil }

var readWriteCases []testCase
var truncateCases []testCase
var fallocateCases []testCase
var seekCases []testCase
var copyRangeCases []testCase
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
