package fuseclient

import "unsafe"

// view sees the first bytes of guest memory as a wire structure.
func view[T any](b []byte) *T {
	var t T
	p := unsafe.SliceData(b)
	if uintptr(len(b)) < unsafe.Sizeof(t) || uintptr(unsafe.Pointer(p))%unsafe.Alignof(t) != 0 {
		panic("fuseclient: structure does not fit the buffer")
	}
	return (*T)(unsafe.Pointer(p))
}

func sizeOf[T any]() int {
	var t T
	return int(unsafe.Sizeof(t))
}

// bytesOf is a wire structure's memory.
func bytesOf[T any](t *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(t)), unsafe.Sizeof(*t))
}
