package main

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountOptionsAreFlags(t *testing.T) {
	tests := []struct {
		options string
		want    uintptr
	}{
		{"", 0},
		{"rw", 0},
		{"ro", unix.MS_RDONLY},
		{"ro,rw", 0},
		{"rw,nosuid,nodev,noexec", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"nosuid,suid,", 0},
		{"remount,ro", unix.MS_REMOUNT | unix.MS_RDONLY},
		{"rw,user_id=0,group_id=0,default_permissions,allow_other,remount,ro", unix.MS_REMOUNT | unix.MS_RDONLY},
		{"defaults,strictatime", unix.MS_STRICTATIME},
	}
	for _, test := range tests {
		if got, err := parseMountOptions(test.options); err != nil || got != test.want {
			t.Errorf("%q: %#x, %v; want %#x", test.options, got, err, test.want)
		}
	}
	for _, bad := range []string{"dax=always", "ro,user_xattr", "ro noexec"} {
		if _, err := parseMountOptions(bad); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestMountHelperTakesTheArgumentsOfMount(t *testing.T) {
	want := mountRequest{Source: "virtiofs-test", Dir: "/mnt/test", Options: "rw,nodev"}
	for _, arguments := range [][]string{
		{"virtiofs-test", "/mnt/test", "-o", "rw,nodev"},
		{"virtiofs-test", "/mnt/test", "-sv", "-o", "rw,nodev", "-t", "fuse.x"},
		{"-n", "-N", "/proc/1/ns/mnt", "virtiofs-test", "-o", "rw,nodev", "/mnt/test"},
	} {
		if got, err := parseHelperArguments(arguments); err != nil || got != want {
			t.Errorf("%q: %+v, %v", arguments, got, err)
		}
	}
	for _, bad := range [][]string{nil, {"virtiofs-test"}, {"a", "b", "c"}, {"a", "b", "-o"}} {
		if got, err := parseHelperArguments(bad); err == nil {
			t.Errorf("%q was taken: %+v", bad, got)
		}
	}
}
