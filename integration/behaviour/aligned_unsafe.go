package behaviour

import "unsafe"

// alignedBuffer is n bytes that start on a page, as O_DIRECT wants them.
func alignedBuffer(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (page - 1)
	return b[skip : skip+n : skip+n]
}
