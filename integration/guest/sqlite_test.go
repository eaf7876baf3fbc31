package guest_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// The journal modes lock, sync, truncate and map differently.
var journals = []string{"delete", "truncate", "wal"}

// sqlite kills a program that writes to a database again and again, while another reads it. Then all that the writer
// was told to be there is there, and sqlite finds the database whole.
func (s *suite) sqlite(t *testing.T) {
	run(t, s.vm, time.Minute, installSqlite)
	for _, journal := range journals {
		t.Run(journal, func(t *testing.T) {
			if journal == "wal" && s.noMaps {
				t.Skip("sqlite maps a file shared for this journal, which is not possible in this mode")
			}
			run(t, s.vm, 15*time.Minute, fmt.Sprintf(`set -e
db=/mnt/db-%s
sqlite() { python3 /tmp/sqlite.py "$@"; }
sqlite make $db %[1]s
python3 /tmp/sqlite.py read $db & reader=$!
for i in $(seq %d); do
    python3 /tmp/sqlite.py write $db %[1]s >/tmp/committed & writer=$!
    until [ $(wc -l </tmp/committed) -gt $((RANDOM %% 20)) ]; do kill -0 $writer; sleep 0.05; done
    kill -9 $writer
    wait $writer || true
    kill -0 $reader
    sqlite check $db $(tail -n 1 /tmp/committed)
done
kill $reader
rm $db*`, journal, s.size(3, 4, 15)))
		})
	}
}

// TestSqliteSurvivesPowerLoss kills a virtual machine again and again, in which programs read and write databases.
func TestSqliteSurvivesPowerLoss(t *testing.T) {
	if foreign() {
		t.Skip("the daemon under test may end with its front-end")
	}
	for _, m := range modes {
		switch {
		case !long() && m.name != modes[0].name:
		case m.dax: // QEMU's end is the end of the window, see TestDAXKill
		default:
			t.Run(m.name, func(t *testing.T) { powerLoss(t, m) })
		}
	}
}

func powerLoss(t *testing.T, m mode) {
	findAssets(t)
	_, socket := startDaemon(t, t.TempDir(), append([]string{"--reconnect", "--xattr"}, m.options...)...)
	databases := map[string]*writer{}
	for _, journal := range journals {
		if journal != "wal" || !m.noMaps {
			databases[journal] = &writer{}
		}
	}
	rounds := 1
	if long() {
		rounds = 3
	}
	for round := range rounds + 1 {
		vm := startVM(t, guest.Config{Packed: m.packed, Shares: []guest.Share{{Tag: tag, Socket: socket}}})
		run(t, vm, time.Minute, m.mount()+"\n"+installSqlite)
		for journal, w := range databases {
			if round == 0 {
				run(t, vm, time.Minute, "python3 /tmp/sqlite.py make /mnt/"+journal+" "+journal)
			} else {
				run(t, vm, time.Minute, fmt.Sprintf("python3 /tmp/sqlite.py check /mnt/%s %d", journal, w.committed()))
			}
		}
		if round == rounds {
			break
		}
		var group sync.WaitGroup
		for journal, w := range databases {
			before := w.committed()
			group.Go(func() {
				// It ends with the guest.
				vm.Exec(context.Background(), guest.Command{Script: fmt.Sprintf("python3 /tmp/sqlite.py read /mnt/%s & exec python3 /tmp/sqlite.py write /mnt/%[1]s %[1]s", journal), Stdout: w, Stderr: w})
			})
			for deadline := time.Now().Add(3 * time.Minute); w.committed() < before+3+round; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) || w.complaint() != "" {
					vm.Kill()
					t.Fatalf("%s: the writer has stopped at %d: %s", journal, w.committed(), w.complaint())
				}
			}
		}
		vm.Kill()
		group.Wait()
		for journal, w := range databases {
			if s := w.complaint(); s != "" {
				t.Errorf("%s: %s", journal, s)
			}
		}
	}
}

// writer takes what the program prints: the number of each batch that is committed, or what is wrong.
type writer struct {
	mu    sync.Mutex
	line  []byte
	last  int
	wrong strings.Builder
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range p {
		if b != '\n' {
			w.line = append(w.line, b)
			continue
		}
		if n, err := strconv.Atoi(string(w.line)); err == nil {
			w.last = n
		} else {
			fmt.Fprintf(&w.wrong, "%s\n", w.line)
		}
		w.line = w.line[:0]
	}
	return len(p), nil
}

func (w *writer) committed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

func (w *writer) complaint() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrong.String()
}

// installSqlite brings the program: each transaction inserts a batch of items and counts it, so that who sees half of one
// knows it.
const installSqlite = `cat >/tmp/sqlite.py <<'END'
import random, sqlite3, sys

what, path = sys.argv[1:3]
db = sqlite3.connect(path, timeout=120, isolation_level=None)
db.execute("pragma synchronous=full")
if what in ("make", "write"):
    mode, = db.execute("pragma journal_mode=" + sys.argv[3]).fetchone()
    if mode != sys.argv[3]: sys.exit("the journal is %s" % mode)

def seen():
    db.execute("begin")
    batch, = db.execute("select batch from committed").fetchone()
    count, last = db.execute("select count(*), coalesce(max(batch), 0) from item").fetchone()
    db.execute("commit")
    if count != 5 * batch or last != batch: sys.exit("%d items, the last of batch %d, where there are %d batches" % (count, last, batch))
    return batch

if what == "make":
    db.executescript("create table item(id integer primary key, batch int, x blob); create index i on item(batch); create table committed(batch int); insert into committed values (0)")
elif what == "write":
    while True:
        db.execute("begin immediate")
        batch = db.execute("select batch from committed").fetchone()[0] + 1
        for i in range(5): db.execute("insert into item(batch, x) values (?, randomblob(?))", (batch, random.choice([10, 1000, 6000])))
        db.execute("update item set x = randomblob(100) where id % 7 = ?", (batch % 7,))
        db.execute("update committed set batch = ?", (batch,))
        db.execute("commit")
        print(batch, flush=True)
        if batch % 25 == 0: db.execute("vacuum")
elif what == "read":
    while True: seen()
else:
    result = db.execute("pragma integrity_check").fetchall()
    if result != [("ok",)]: sys.exit("%s is not whole: %s" % (path, result))
    batch = seen()
    if batch < int(sys.argv[3]): sys.exit("batch %s was committed, and %d are there" % (sys.argv[3], batch))
END
`
