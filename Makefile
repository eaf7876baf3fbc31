# For a Debian 12 machine, as root; what is missing is installed or made on the way, and kept in build/.
#
#   make demo SHARE=dir [CMD='...']   serve dir to a QEMU guest: a shell there, or one command (scripts/demo has the knobs)
#   make test                         every test, those in a guest included
#   make conformance                  file-system use in guests, in every mode and at full size (docs/conformance.md)
#   make                              build/virtiofsd-go

# make expands $ in what is given on its command line; a command for the guest's shell wants to keep its own.
override CMD := $(subst $$$$,$$,$(value CMD))
export SHARE CMD MEM SMP QUEUES PACKED DAX DAX_WINDOW DAEMON DAEMON_ARGS VERBOSE

# A Go that is new enough, and its programs, for the recipes.
with-go = go=$$(scripts/bootstrap go) && PATH="$${go%/*}:$$PATH" GOTOOLCHAIN=local GOFLAGS="$$GOFLAGS -buildvcs=false"

.PHONY: build conformance demo guest test

build:
	@$(with-go) CGO_ENABLED=0 go build -o build/virtiofsd-go ./cmd/virtiofsd-go

demo:
	@scripts/demo

guest:
	@scripts/bootstrap guest

test:
	@scripts/bootstrap test
	@scripts/bootstrap guest || echo 'Without a guest its tests are skipped.' >&2
	@: "$${VIRTIOFSD_RUST:=$$(scripts/bootstrap peer || echo 'Without rust virtiofsd the comparisons with it are skipped.' >&2)}" && \
	export VIRTIOFSD_RUST && $(with-go) go run ./scripts/runtests

# What make test does of it is the first mode, in small sizes.
conformance: guest
	@scripts/bootstrap test
	@$(with-go) CONFORMANCE=long go test -count=1 -p=1 -timeout=90m -v -run '^Test(Conformance|SqliteSurvivesPowerLoss|DatabaseSurvivesKilledDaemon)$$' \
	    ./integration/guest ./integration/fusebridge
