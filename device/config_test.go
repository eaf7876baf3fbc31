package device_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

func TestConfigSpace(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{Tag: "music", RequestQueues: 3})
	want := append([]byte("music"), make([]byte, 31)...)
	want = append(want, 3, 0, 0, 0)
	for _, tt := range []struct{ off, n uint32 }{{0, 40}, {0, 256}, {36, 4}, {3, 5}, {39, 100}, {40, 10}, {1000, 1}} {
		got, err := m.dev.ReadConfig(tt.off, tt.n)
		begin, end := min(tt.off, 40), min(tt.off+tt.n, 40)
		if err != nil || !bytes.Equal(got, want[begin:end]) {
			t.Errorf("%d bytes from %d: %v, %v", tt.n, tt.off, got, err)
		}
	}
	if m.dev.WriteConfig(0, []byte("rock"), false) == nil {
		t.Error("the driver may write the tag")
	}
	if m.dev.WriteConfig(0, want, true) != nil {
		t.Error("a migrated device with the same configuration is refused")
	}
	if m.dev.WriteConfig(0, []byte("rock"), true) == nil {
		t.Error("a migrated device with another tag is accepted")
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for _, o := range []device.Options{
		{RequestQueues: 0}, {RequestQueues: 65}, {RequestQueues: 1, Tag: strings.Repeat("x", 37)},
	} {
		o.Server = newEcho()
		if _, err := device.New(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
