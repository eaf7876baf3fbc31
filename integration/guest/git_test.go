package guest_test

import (
	"fmt"
	"testing"
	"time"
)

// git makes histories on the share, clones and packs them and checks every object.
func (s *suite) git(t *testing.T) {
	t.Run("commits", func(t *testing.T) {
		run(t, s.vm, 20*time.Minute, fmt.Sprintf(commitsScript, s.size(12, 12, 100)))
	})
	t.Run("history", func(t *testing.T) {
		run(t, s.vm, 20*time.Minute, fmt.Sprintf(historyScript, s.size(300, 300, 3000)))
	})
}

// commitsScript makes commits as a user does, clones them in both ways, and works in the clones.
const commitsScript = `set -e
commits=%d
git config --global user.name guest
git config --global user.email guest@example.invalid
git config --global init.defaultBranch main
git init -q /mnt/origin
cd /mnt/origin
git config maintenance.auto false
for ((i = 1; i <= commits; i++)); do
    [ -d dir$((i %% 5)) ] || mkdir -p dir$((i %% 5))/deep
    for j in {1..5}; do printf '%%s\n' $((i * j)) {1..200} >dir$((i %% 5))/deep/file$((i * j %% 100)); done
    ln -sfn deep/file$i dir$((i %% 5))/link
    git add -A
    git commit -q -m "commit $i"
done
test "$(git rev-list --count main)" = $commits
git branch topic HEAD~5
git fsck --full --strict
git clone -q --no-hardlinks /mnt/origin /mnt/local
git clone -q file:///mnt/origin /mnt/packed
cd /mnt/packed
git checkout -q origin/topic
git gc -q
git fsck --full --strict
git -C /mnt/local fsck --full --strict
git checkout -q main
test "$(git rev-parse HEAD)" = "$(git -C /mnt/origin rev-parse HEAD)"
test -z "$(git status --porcelain)"
diff -r --no-dereference --exclude=.git /mnt/origin /mnt/packed
git worktree add -q /mnt/tree topic
git -C /mnt/tree grep -q 200
git worktree remove /mnt/tree
rm -rf /mnt/origin /mnt/packed /mnt/local
`

// historyScript makes a history of many commits at once and has git look at all of it, loose and packed.
const historyScript = `set -e
commits=%d
rm -rf /mnt/history && git init -q -b main /mnt/history
cd /mnt/history
awk -v commits=$commits 'BEGIN {
    for (i = 1; i <= commits; i++) {
        printf "commit refs/heads/main\nmark :%%d\ncommitter guest <guest@example.invalid> %%d +0000\ndata <<END\ncommit %%d\nEND\n\n", i, 1700000000 + i, i
        printf "M 100644 inline dir%%d/file%%d\ndata <<END\n", i %% 50, i %% 1000
        for (j = 0; j < 20; j++) print i * j, "line", j
        print "END\n"
    }
}' >/tmp/history
git -c fastimport.unpackLimit=0 fast-import --quiet </tmp/history
test "$(git rev-list --count main)" = $commits
git fsck --full --strict
git checkout -q -f main
test -z "$(git status --porcelain)"
# The last hundred commits loose, each with its own file.
git rev-list --objects HEAD~100..HEAD | cut -d ' ' -f 1 | git pack-objects -q --stdout >/tmp/last.pack
git init -q -b main /mnt/loose
git -C /mnt/loose unpack-objects -q </tmp/last.pack
test "$(find /mnt/loose/.git/objects -type f | wc -l)" -gt 200
git gc -q
git fsck --full --strict
rm -rf /mnt/history /mnt/loose
`
