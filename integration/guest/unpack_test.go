package guest_test

import (
	"fmt"
	"testing"
	"time"
)

// unpack brings a tree that has what a container's files have to the share by tar and by rsync, and back, and compares
// all that there is to know of it: contents and holes, kinds, modes, ids, times, ACLs and attributes, which names are one file.
func (s *suite) unpack(t *testing.T) {
	run(t, s.vm, 2*time.Minute, "cat >/tmp/tree.py <<'END'\n"+treeProgram+"END\nmkdir /tmp/container && python3 /tmp/tree.py make /tmp/container")
	const tar = "--numeric-owner --acls --xattrs --xattrs-include='*' -S"
	holes := "holes"
	if s.noHoles {
		holes = "no-holes"
	}
	for _, c := range []struct{ name, copy, leave string }{
		// Tar has no sockets.
		{"tar", "mkdir -p $2 && tar " + tar + " --exclude=socket -C $1 -c . | tar " + tar + " -C $2 -xp", "socket"},
		// Rsync reads holes as well, and four gigabytes of them take minutes in an emulator.
		{"rsync", "mkdir -p $2 && rsync -aHAXS --numeric-ids --exclude=huge $1/ $2/", "huge"},
	} {
		t.Run(c.name, func(t *testing.T) {
			leave := c.leave
			if s.noHoles {
				// Where all of a file is data, to bring the large one back means to read all of it.
				c.copy, leave = c.copy+"; if [ -e $2/huge ]; then rm $2/huge; touch -r $1 $2; fi", leave+" huge"
			}
			run(t, s.vm, 10*time.Minute, fmt.Sprintf(`set -e -o pipefail
copy() { %s; }
copy /tmp/container /mnt/%[2]s
echo 3 >/proc/sys/vm/drop_caches
copy /mnt/%[2]s /tmp/%[2]s
for tree in /tmp/container /mnt/%[2]s /tmp/%[2]s; do python3 /tmp/tree.py describe $tree %[3]s %[4]s >$(echo $tree | tr / _).txt; done
diff _tmp_container.txt _mnt_%[2]s.txt
diff _tmp_container.txt _tmp_%[2]s.txt
rm -rf /tmp/%[2]s`, c.copy, c.name, holes, leave))
		})
	}
	// A container's layers: everything of the image is copied up.
	t.Run("overlay", func(t *testing.T) {
		run(t, s.vm, 10*time.Minute, fmt.Sprintf(`set -e
modprobe overlay 2>/dev/null || true
mkdir -p /mnt/layer/upper /mnt/layer/work /tmp/merged
mount -t overlay -o lowerdir=/mnt/rsync,upperdir=/mnt/layer/upper,workdir=/mnt/layer/work,index=on,redirect_dir=on,metacopy=on overlay /tmp/merged
for tree in /tmp/container /tmp/merged; do
    python3 /tmp/tree.py alter $tree
    python3 /tmp/tree.py describe $tree %s >$(echo $tree | tr / _).txt
done
diff _tmp_container.txt _tmp_merged.txt
umount /tmp/merged
rm -rf /mnt/layer /mnt/tar /mnt/rsync /tmp/container`, holes))
	})
}

const treeProgram = `
import hashlib, os, random, shutil, socket, stat, subprocess, sys

def make():
    random.seed(1)
    os.mkdir("files")
    for i in range(1, 301):
        name = "files/%d" % i
        with open(name, "wb") as f: f.write(random.randbytes(i * 37))
        os.chown(name, i % 7 + 1000, i % 11 + 2000)
        os.chmod(name, i * 7 % 512)
    for i in range(1, 21):
        os.link("files/%d" % i, "files/hard-%d" % i)
        os.symlink("../files/%d" % i, "files/soft-%d" % i)
        os.lchown("files/soft-%d" % i, i, i)
    for i, owner in enumerate([(100000, 165535), (165536, 100000), (4000000000, 4294967294)]):
        open("shifted-%d" % i, "w").close()
        os.chown("shifted-%d" % i, *owner)
    for name, mode, owner in ("sticky", 0o1777, (0, 0)), ("group", 0o2750, (5, 6)):
        os.mkdir(name)
        os.chown(name, *owner)
        os.chmod(name, mode)
    shutil.copyfile("/bin/true", "setuid")
    os.chown("setuid", 3, 4)
    os.chmod("setuid", 0o6755)
    shutil.copyfile("/bin/true", "capable")
    subprocess.run(["setcap", "cap_net_raw+ep", "capable"], check=True)
    for name, kind, major, minor in ("null", stat.S_IFCHR, 1, 3), ("loop", stat.S_IFBLK, 7, 0), ("whiteout", stat.S_IFCHR, 0, 0), ("wide", stat.S_IFCHR, 500, 70000):
        os.mknod(name, kind | 0o640, os.makedev(major, minor))
    os.mkfifo("fifo", 0o620)
    with socket.socket(socket.AF_UNIX) as s: s.bind("socket")
    for name in "null", "fifo", "socket": os.chown(name, 100007, 8)
    open("acl", "w").close()
    os.mkdir("acl-default")
    subprocess.run("setfacl -m u:1234:rw,u:100000:r,g:4321:r,m::rw acl && setfacl -d -m u:1234:rwx,g:4321:rx acl-default", shell=True, check=True)
    open("attributes", "w").close()
    os.setxattr("attributes", "user.one", b"1")
    os.setxattr("attributes", "user.empty", b"")
    os.setxattr("attributes", "trusted.two", bytes(range(256)))
    os.setxattr("attributes", "user.large", b"x" * 2000)
    with open("sparse", "wb") as f:
        f.truncate(16 << 20)
        for megabyte in 0, 5, 11:
            f.seek(megabyte << 20)
            f.write(random.randbytes(256 << 10))
    with open("huge", "wb") as f:
        f.truncate((5 << 30) + 12345)
        for offset in 0, (2 << 30) - 4096, 4 << 30, 5 << 30:
            f.seek(offset)
            f.write(random.randbytes(8192))
    for name in b"files/\xff\xfe not UTF-8", b"files/" + b"0" * 255:
        with open(name, "wb") as f: f.write(b"x")
    for name in "files/1", "files/2", "group": os.utime(name, ns=(0, 946684799123456789))
    os.utime("files/soft-1", ns=(0, 978307200500000000), follow_symlinks=False)
    os.utime("files/3", ns=(0, -1))

def every():
    for top, directories, names in os.walk(b"."):
        directories.sort()
        for name in [b"."] * (top == b".") + sorted(names + directories): yield os.path.join(top, name)

def content(path, size, holes):
    sum, parts = hashlib.md5(), []
    with open(path, "rb", buffering=0) as f:
        end = 0
        while holes:
            try: start = f.seek(end, os.SEEK_DATA)
            except OSError: break
            end = f.seek(start, os.SEEK_HOLE)
            parts.append((start, end))
        for start, end in parts or [(0, size)]:
            f.seek(start)
            while start < end:
                data = f.read(min(1 << 20, end - start))
                if not data: sys.exit("%r ends at %d of %d" % (path, start, end))
                sum.update(data)
                start += len(data)
    return sum.hexdigest(), parts

def describe(holes, leave):
    one, files = {}, {}
    for path in every():
        if os.fsdecode(os.path.basename(path)) in leave: continue
        s = os.lstat(path)
        line = [path, "%o" % s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns]
        if stat.S_ISREG(s.st_mode):
            same = one.setdefault(s.st_ino, path)
            if same == path: files[path] = content(path, s.st_size, holes)
            line += [s.st_size, s.st_nlink, same, files[same]]
        elif stat.S_ISLNK(s.st_mode): line.append(os.readlink(path))
        elif stat.S_ISBLK(s.st_mode) or stat.S_ISCHR(s.st_mode): line += [os.major(s.st_rdev), os.minor(s.st_rdev)]
        for name in sorted(os.listxattr(path, follow_symlinks=False)):
            line.append((name, os.getxattr(path, name, follow_symlinks=False)))
        print(*line)

def alter():
    # A device 0, 0 is how an overlay says that a name is not there. With metacopy Linux sets a copy's attributes before
    # its size, for which capabilities are taken from it where it is FUSE.
    for name in "huge", "whiteout", "capable":
        if os.path.lexists(name): os.remove(name)
    os.utime(".", ns=(0, 0))
    for path in list(every()):
        s = os.lstat(path)
        os.lchown(path, -1, s.st_gid ^ 1)
        if stat.S_ISREG(s.st_mode) and len(path) % 2:
            with open(path, "ab") as f: f.write(b"more")
        os.utime(path, ns=(0, s.st_mtime_ns + 1), follow_symlinks=False)

what = sys.argv[1]
os.chdir(sys.argv[2])
if what == "make": make()
elif what == "alter": alter()
else: describe(sys.argv[3] == "holes", sys.argv[4:])
`
