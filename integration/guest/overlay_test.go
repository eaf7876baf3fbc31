package guest_test

import (
	"fmt"
	"testing"
	"time"
)

// overlay puts overlays on the share: with the lower layer there, the upper one, and both.
func (s *suite) overlay(t *testing.T) {
	run(t, s.vm, time.Minute, "modprobe overlay 2>/dev/null; mkdir -p /tmp/local /tmp/overlay && mount -t tmpfs local /tmp/local")
	// What an overlay does with names of user attributes it can't do with copies of metadata only, and follows no
	// redirections: Linux refuses the combination.
	all := "redirect_dir=on,metacopy=on"
	if !s.noNames {
		all += ",index=on"
	}
	bits := ""
	if !foreign() {
		bits = "4711" // which other daemons take from what is copied up
	}
	for _, c := range []struct{ name, lower, upper, options string }{
		{"lower", "/mnt/overlay/lower", "/tmp/local", ""},
		{"upper", "/tmp/local/lower", "/mnt/overlay", ""},
		{"both", "/mnt/overlay/lower", "/mnt/overlay", ""},
		{"userxattr", "/mnt/overlay/lower", "/mnt/overlay", "userxattr"},
		{"lower-of-all", "/mnt/overlay/lower", "/tmp/local", all},
		{"upper-of-all", "/tmp/local/lower", "/mnt/overlay", all},
		{"all", "/mnt/overlay/lower", "/mnt/overlay", all},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, s.vm, 5*time.Minute, fmt.Sprintf("lower=%s upper=%s/upper work=%[2]s/work options=%[3]s bits=%[4]s\n%[5]s", c.lower, c.upper, c.options, bits, overlayScript))
		})
	}
}

const overlayScript = `set -eE
trap 'echo "failed in line $LINENO: $BASH_COMMAND"' ERR
! mountpoint -q /tmp/overlay || umount /tmp/overlay
rm -rf $lower $upper $work
has() { [[ ,$options, == *,$1,* ]]; }
mkdir -p $lower $upper $work
(
    cd $lower
    mkdir -p dir/deep moving/below
    echo kept >kept; echo changed >changed; echo removed >removed; echo moved >dir/deep/moved; echo below >moving/below/file
    printf '%s\n' {1..5000} >large; cp large mode
    ln kept hard; ln -s kept link; chown 100000:165536 changed; chmod 4711 changed
    setfattr -n user.a -v b kept
)
sums() { (cd $lower && find . -type f | sort | xargs md5sum); }
before=$(sums)
put() {
    mount -t overlay -o lowerdir=$lower,upperdir=$upper,workdir=$work${options:+,$options} overlay /tmp/overlay
    # The kernel goes on without an option for which a layer lacks something, and says so here only.
    for option in ${options//,/ }; do grep -q "^overlay /tmp/overlay .*[ ,]$option[, ]" /proc/mounts; done
}
put
cd /tmp/overlay
echo more >>changed
rm removed
mkdir removed && echo inside >removed/file
mv dir/deep/moved dir/moved
rm -r dir/deep && mkdir dir/deep
mv moving renamed
echo end >>large
chmod 640 mode
setfattr -n user.c -v d kept
echo more >>hard
cd /
if has metacopy=on; then
    getfattr --absolute-names -n trusted.overlay.metacopy $upper/mode >/dev/null
    test $(stat -c %b $upper/mode) -le 8 # of 48: room for the attributes
fi
if has redirect_dir=on; then
    getfattr --absolute-names -n trusted.overlay.redirect $upper/renamed >/dev/null
    test -z "$(ls -A $upper/renamed)"
fi
if has userxattr; then getfattr --absolute-names -n user.overlay.opaque $upper/dir/deep >/dev/null; fi
if has index=on; then test -n "$(ls -A $work/index)"; fi
for round in first second; do
    cd /tmp/overlay
    if has index=on; then
        test "$(cat kept)" = "$(printf 'kept\nmore')"
        test "$(stat -c '%h %i' kept)" = "$(stat -c '%h %i' hard)"
        test $(stat -c %h kept) = 2
    else
        test "$(cat kept)" = kept
    fi
    test "$(cat hard)" = "$(printf 'kept\nmore')"
    test "$(cat changed)" = "$(printf 'changed\nmore')"
    test "$(stat -c "%u %g${bits:+ %a}" changed)" = "100000 165536${bits:+ $bits}"
    test "$(cat removed/file)" = inside
    test "$(cat dir/moved)" = moved
    test -z "$(ls -A dir/deep)"
    test ! -e moving
    test "$(cat renamed/below/file)" = below
    test "$(wc -l <large)" = 5001
    test "$(stat -c %a mode)" = 640
    cmp mode $lower/mode
    test "$(getfattr --only-values -n user.a kept)$(getfattr --only-values -n user.c kept)" = bd
    cd /
    umount /tmp/overlay
    # The index goes by file handles, which for FUSE last as long as the guest keeps the inode.
    has index=on || echo 3 >/proc/sys/vm/drop_caches
    put
done
# What was only metadata becomes a copy.
echo end >>/tmp/overlay/mode
test "$(head -n -1 /tmp/overlay/mode | md5sum)" = "$(md5sum <$lower/mode)"
umount /tmp/overlay
test "$before" = "$(sums)"
rm -rf $lower $upper $work
`
