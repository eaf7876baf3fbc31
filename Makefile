# For a Debian 12 machine, as root; what is missing is installed or made on the way, and kept in build/.
#
#   make demo SHARE=dir [CMD='...']   serve dir to a QEMU guest: a shell there, or one command (scripts/demo has the knobs)
#   make test                         every test, those in a guest included
#   make                              build/virtiofsd-go

# make expands $ in what is given on its command line; a command for the guest's shell wants to keep its own.
override CMD := $(subst $$$$,$$,$(value CMD))
export SHARE CMD MEM SMP QUEUES PACKED DAX DAEMON DAEMON_ARGS VERBOSE

.PHONY: build demo guest test

build:
	CGO_ENABLED=0 $$(scripts/bootstrap go) build -buildvcs=false -o build/virtiofsd-go ./cmd/virtiofsd-go

demo:
	@scripts/demo

guest:
	@scripts/bootstrap guest

test:
	@scripts/test
