package virtqueue

import "errors"

// MaxChainBytes bounds what one chain may describe.
const MaxChainBytes = 64 << 20

// minChain is the number of descriptors that an indirect table may have even if
// the ring has fewer. virtio allows no more than the ring has, but Linux drivers
// of other devices are known to do so.
const minChain = 1024

// ErrRing says that the ring itself is broken: nothing of it can be trusted, and
// it is not looked at again until it is set up anew.
var ErrRing = errors.New("the ring is broken")

// ChainError says that the driver made a chain that can't be served. The chain's
// Head is set: completing it with length 0 tells the driver.
type ChainError struct{ Reason string }

func (e *ChainError) Error() string { return "bad descriptor chain: " + e.Reason }

// The reasons are values of their own so that a hostile driver costs no memory.
var (
	errLoop      = &ChainError{"it is longer than the ring, or has a loop"}
	errNext      = &ChainError{"its next index is outside the table"}
	errOrder     = &ChainError{"a device-readable descriptor follows a writable one"}
	errAddress   = &ChainError{"a buffer is not in guest memory"}
	errEmpty     = &ChainError{"a buffer is empty"}
	errLength    = &ChainError{"it describes too many bytes"}
	errIndirect  = &ChainError{"an indirect descriptor has a wrong length, or flags that exclude it"}
	errNested    = &ChainError{"an indirect table holds an indirect descriptor"}
	errNoFeature = &ChainError{"it is indirect, which was not negotiated"}
)
