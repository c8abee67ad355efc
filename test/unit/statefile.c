/* See LICENSE file for copyright and license details. */
/*
 * The files of state.c: what is read and what is refused, whose directory is
 * used, and what is left by one that is killed or cannot write. Each helper is
 * a process of its own. renameat() is this file's. Wants root
 * for what concerns owners.
 */
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/wait.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../prhelper.h"
#include "valid.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))
#define HEAD "prhelper-state 1\nboot -\nwwid naa.6001405\n"
#define NUMBERS "key 1234abcd\nold 77\nchanging 1\nghosts 0\n" \
	"aptpl 2\nmap 253:0\n"
#define HOLDER "holder 8:16\n"
#define MARKS "mark 8:16 clean 0\nmark 8:32 set 1\nmark 65:0 tainted 0\n"
#define GOOD_TEXT HEAD NUMBERS HOLDER MARKS "end\n"

enum {
	THREADS = 6,
	TURNS = 60,
	SHORT = 300, /* ms */
	USER = 12345,
	GROUP = 54321,
};

static const struct ids same = { (uid_t)-1, (gid_t)-1 };
static const struct ids user = { USER, GROUP };

static char top[] = "/tmp/prhelper.XXXXXX", dir[64];
static int die_in_rename;
static int tests, failed;

int
renameat(int from, const char *old, int to, const char *new)
{
	if (die_in_rename)
		kill(getpid(), SIGKILL);
	return (int)syscall(SYS_renameat2, from, old, to, new, 0);
}

static struct lun *
get(const char *wwid)
{
	return state_get(wwid, TURN_TIME);
}

static void
check(int ok, const char *fmt, ...)
{
	va_list ap;

	printf("%sok %d - ", ok ? "" : "not ", ++tests);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	failed += !ok;
}

static const char *
in(const char *where, const char *file)
{
	static char path[2][512];
	static int i;

	i = !i;
	snprintf(path[i], sizeof(path[i]), "%s/%s", where, file);
	return path[i];
}

static int
exists(const char *file)
{
	struct stat st;

	return lstat(in(dir, file), &st) == 0;
}

static ino_t
inode(const char *file)
{
	struct stat st;

	return stat(in(dir, file), &st) == 0 ? st.st_ino : 0;
}

static void
put_file(const char *file, const char *text, size_t len)
{
	int fd = open(in(dir, file), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, text, len) != (ssize_t)len)
		check(0, "%s can be made", file);
	close(fd);
}

static size_t
get_file(const char *file, char *text, size_t size)
{
	int fd = open(in(dir, file), O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, text, size);

	close(fd);
	return n > 0 ? (size_t)n : 0;
}

/* How many names are in the directory. */
static int
names(void)
{
	DIR *d = opendir(dir);
	struct dirent *f;
	int n = 0;

	while (d && (f = readdir(d)))
		n += f->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

/* A directory's name that is free. */
static void
fresh(void)
{
	static int n;

	snprintf(dir, sizeof(dir), "%s/%d.state", top, ++n);
}

/* Run a helper; what it prints is counted in lines, and kept in said. */
static int lines;
static char said[2048];

static int
helper(int (*life)(void))
{
	char path[64];
	int fd, status = -1;
	ssize_t n;
	pid_t pid;

	fflush(stdout);
	snprintf(path, sizeof(path), "%s/err", top);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if ((pid = fork()) == 0) {
		dup2(fd, 2);
		_exit(life());
	}
	waitpid(pid, &status, 0);
	n = pread(fd, said, sizeof(said) - 1, 0);
	close(fd);
	said[n > 0 ? n : 0] = '\0';
	for (lines = 0, fd = 0; said[fd]; fd++)
		lines += said[fd] == '\n';
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* The parser */

/* In memory of just this size, so that a look beyond it is seen. */
static int
parses(const char *text, size_t len, struct lun *l)
{
	char *exact = malloc(len + 1);
	int r;

	memcpy(exact, text, len);
	exact[len] = '\0';
	memset(l, 0xee, sizeof(*l));
	r = strlen(exact) == len ? state_parse(exact, l) : -1;
	free(exact);
	return r == 0;
}

static void
good(void)
{
	static const struct {
		const char *text;
		dev_t holder;
	} t[] = { { "holder 0:0\n", 0 },
		{ "holder 4294967295:4294967295\n", (dev_t)-1 },
		{ "holder 8:4112\n", 0x1000810 } };
	char text[1024];
	struct lun l;
	size_t i;

	check(parses(GOOD_TEXT, strlen(GOOD_TEXT), &l) && valid(&l),
		"a good file");
	check(!strcmp(l.wwid, "naa.6001405") && l.key == 0x1234abcd &&
		l.old == 0x77 && l.changing == 1 && l.aptpl == APTPL_ON &&
		l.map == makedev(253, 0) && l.holder == makedev(8, 16),
		"what it says of the unit");
	check(l.n == 3 && l.marks[0].dev == makedev(8, 16) &&
		l.marks[0].mark == MARK_CLEAN && !l.marks[0].failed &&
		l.marks[1].dev == makedev(8, 32) &&
		l.marks[1].mark == MARK_SET && l.marks[1].failed &&
		l.marks[2].dev == makedev(65, 0) &&
		l.marks[2].mark == MARK_TAINTED, "and of its paths");
	for (i = 0; i < LEN(t); i++) {
		snprintf(text, sizeof(text), HEAD NUMBERS "%s" MARKS "end\n",
			t[i].text);
		check(parses(text, strlen(text), &l) &&
			l.holder == t[i].holder, "%.*s",
			(int)strlen(t[i].text) - 1, t[i].text);
	}
	snprintf(text, sizeof(text),
		HEAD "key ffffffffffffffff\nold ffffffffffffffff\n"
		"changing 0\nghosts 0\naptpl 0\nmap 0:0\n" HOLDER "end\n");
	check(parses(text, strlen(text), &l) && l.key == UINT64_MAX &&
		l.old == UINT64_MAX && l.n == 0, "the greatest key, no mark");
	snprintf(text, sizeof(text),
		HEAD "key 0\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\nmap 0:0\n" HOLDER
		"mark 8:16 clean 1\nend\n");
	check(parses(text, strlen(text), &l), "only a path that we failed");
}

static void
mutilated(void)
{
	char text[] = GOOD_TEXT "x";
	const size_t len = strlen(GOOD_TEXT);
	size_t i, accepted = 0, broken = 0, whole = 0;
	struct lun l;
	int c;

	for (i = 0; i < len; i++)
		whole += parses(text, i, &l);
	check(whole == 0, "every truncation is refused");
	check(!parses(text, len + 1, &l), "and one byte more");
	for (i = 0; i < len; i++) {
		for (c = 0; c < 256; c++) {
			text[i] = (char)c;
			if (c == (uint8_t)GOOD_TEXT[i] ||
				!parses(text, len, &l))
				continue;
			accepted += !strcmp(l.wwid, "naa.6001405");
			broken += !valid(&l);
		}
		text[i] = GOOD_TEXT[i];
	}
	check(broken == 0, "every byte changed: refused, or valid");
	check(accepted < 255 * len / 100, "nearly all refused: %zu of %zu",
		255 * len - accepted, 255 * len);
}

static void
foreign(void)
{
	static const char *const texts[] = {
		"", "\n", "end\n", "prhelper-state 1\n", "\nwwid ",
		"prhelper-state 2\nboot -\nwwid a\n" NUMBERS HOLDER "end\n",
		"prhelper-state 1\nboot x\nwwid a\n" NUMBERS HOLDER "end\n",
		"prhelper-state 1\nboot -\nwwid \n" NUMBERS HOLDER "end\n",
		"prhelper-state 1\nboot -\n" NUMBERS HOLDER "end\n",
		"#!/bin/sh\nrm -rf /\nwwid a\n",
		HEAD HEAD NUMBERS HOLDER "end\n",
		HEAD NUMBERS HOLDER "end",
		HEAD NUMBERS HOLDER "end\nend\n",
		HEAD NUMBERS HOLDER "end \n",
		HEAD NUMBERS HOLDER "\nend\n",
		HEAD NUMBERS "end\n",
		HEAD HOLDER NUMBERS "end\n",
		HEAD "key 0x1\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\nmap 0:0\n" HOLDER
			"end\n",
		HEAD "key 01\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\nmap 0:0\n" HOLDER
			"end\n",
		HEAD "key -1\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\nmap 0:0\n" HOLDER
			"end\n",
		HEAD "key +1\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\nmap 0:0\n" HOLDER
			"end\n",
		HEAD "key  1\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\nmap 0:0\n" HOLDER
			"end\n",
		HEAD "key A\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\nmap 0:0\n" HOLDER
			"end\n",
		HEAD "key 10000000000000001\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\n"
			"map 0:0\n" HOLDER "end\n",
		HEAD "key 1\nold 0\nchanging 2\nghosts 0\n"
		"aptpl 0\nmap 0:0\n" HOLDER
			"end\n",
		HEAD "key 1\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 3\nmap 0:0\n" HOLDER
			"end\n",
		HEAD "key 1\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 100000000\nmap 0:0\n"
			HOLDER "end\n",
		HEAD "key 1\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\nmap 0\n" HOLDER
			"end\n",
		HEAD "key 1\nold 0\nchanging 0\nghosts 0\n"
		"aptpl 0\nmap 1:4294967296\n"
			HOLDER "end\n",
		HEAD NUMBERS HOLDER "mark 8:16 good 0\nend\n",
		HEAD NUMBERS HOLDER "mark 8:16 set 2\nend\n",
		HEAD NUMBERS HOLDER "mark 8:16 set 10\nend\n",
		HEAD NUMBERS HOLDER "mark 8:16 set\nend\n",
		HEAD NUMBERS HOLDER "mark 8:16 setset 0\nend\n",
		HEAD NUMBERS HOLDER "mark 8:16\nend\n",
		HEAD NUMBERS HOLDER "mark \nend\n",
		HEAD NUMBERS HOLDER "mark",
		HEAD NUMBERS HOLDER "mark ",
		HEAD NUMBERS HOLDER "mark 8:16 ",
		HEAD NUMBERS HOLDER "mark 8:16 set ",
		HEAD NUMBERS HOLDER "mark 8:16 set 0\nmark 8:16 set 0\nend\n",
	};
	char text[8192];
	struct lun l;
	size_t i, k, n, accepted = 0;

	for (i = 0; i < LEN(texts); i++)
		if (parses(texts[i], strlen(texts[i]), &l)) {
			printf("# accepted: %s", texts[i]);
			accepted++;
		}
	check(accepted == 0, "%zu foreign files are refused", LEN(texts));
	for (i = 254; i <= 257; i++) {
		n = (size_t)snprintf(text, sizeof(text),
			"prhelper-state 1\nboot -\nwwid %0*d\n" NUMBERS HOLDER
			"end\n", (int)i, 0);
		check(parses(text, n, &l) == (i < WWID_LEN),
			"a wwid of %zu bytes", i);
	}
	for (i = MARKS_MAX; i <= MARKS_MAX + 1; i++) {
		n = (size_t)sprintf(text, HEAD NUMBERS HOLDER);
		for (k = 0; k < i; k++)
			n += (size_t)sprintf(text + n, "mark 8:%zu set 0\n", k);
		n += (size_t)sprintf(text + n, "end\n");
		check(parses(text, n, &l) == (i == MARKS_MAX), "%zu marks", i);
	}
	memset(text, 'a', sizeof(text));
	check(!parses(text, sizeof(text), &l), "a long one");
	memset(text, '\0', sizeof(text));
	check(!parses(text, sizeof(text), &l), "nothing but zeros");
}

/* Pieces of good files and noise in any order. */
static void
noise(void)
{
	static const char *const bits[] = { HEAD, NUMBERS, HOLDER, MARKS,
		"end\n", "\nwwid ", "mark ", " ", ":", "\n", "8:16", " set ",
		"99999999999999999999", "-", "mark 8:48 clear 1\n" };
	char text[4096];
	size_t i, len, k, accepted = 0, broken = 0;
	struct lun l;

	srand(1);
	for (i = 0; i < 30000; i++) {
		len = 0;
		while (len < 400 && rand() % 12) {
			k = (size_t)rand() % (LEN(bits) + 1);
			if (k < LEN(bits))
				len += (size_t)sprintf(text + len, "%s",
					bits[k]);
			else
				text[len++] = (char)rand();
		}
		if (!parses(text, len, &l))
			continue;
		accepted++;
		broken += !valid(&l);
	}
	check(broken == 0, "30000 texts of noise: %zu are good, and valid",
		accepted);
}

/* The directory */

/* Remember a unit; the exit status says whether it was in memory. */
static int
remember(const struct ids *ids)
{
	struct lun *l;

	state_open(dir, ids);
	if (!(l = get("naa.1")))
		return 1;
	l->key = 0x1;
	state_put(l);
	if (!(l = get("naa.1")))
		return 1;
	return l->key == 0x1 ? 0 : 1;
}

static int
life_same(void)
{
	return remember(&same);
}

static int
life_user(void)
{
	return remember(&user);
}

static int
life_dropped(void)
{
	struct lun *l;

	state_open(dir, &user);
	if (setresgid(GROUP, GROUP, GROUP) || setresuid(USER, USER, USER))
		return 2;
	if (!(l = get("naa.1")))
		return 1;
	l->key++;
	state_put(l);
	return l->key == 2 ? 0 : 3;
}

static void
used(int (*life)(void), const char *what)
{
	check(helper(life) == 0 && lines == 0 && exists("naa.1"), "%s: used",
		what);
}

static void
unused(int (*life)(void), const char *what)
{
	check(helper(life) == 0, "%s: in memory only", what);
	check(lines == 1 && strstr(said, dir) && strstr(said, "not used"),
		"%s: one line says so", what);
}

static void
directories(void)
{
	struct stat st;
	char other[64];

	fresh();
	used(life_same, "no directory");
	check(stat(dir, &st) == 0 && (st.st_mode & 07777) == 0700 &&
		st.st_uid == geteuid(), "it is made, for us alone");
	used(life_same, "a directory of a predecessor");
	check(stat(in(dir, "naa.1"), &st) == 0 &&
		(st.st_mode & 07777) == 0600, "its files are ours alone, too");

	memcpy(other, dir, sizeof(other));
	fresh();
	check(symlink(other, dir) == 0, "a symbolic link to it");
	unused(life_same, "a symbolic link");
	fresh();
	close(open(dir, O_CREAT, 0600));
	unused(life_same, "a file");
	fresh();
	mkfifo(dir, 0600);
	unused(life_same, "a FIFO");
	snprintf(dir, sizeof(dir), "%s/missing/1.state", top);
	unused(life_same, "no parent");
	fresh();
	mkdir(dir, 0700);
	put_file("x", "", 0);
	chmod(dir, 0720);
	unused(life_same, "writable for a group");
	chmod(dir, 0702);
	unused(life_same, "writable for all");
	check(names() == 1, "nothing is put there");
	chmod(dir, 0755);
	used(life_same, "readable for all");
}

static void
owners(void)
{
	struct stat st;

	if (geteuid() != 0) {
		printf("# not root: no tests with other users\n");
		return;
	}
	fresh();
	used(life_user, "made for a user");
	check(stat(dir, &st) == 0 && st.st_uid == USER && st.st_gid == GROUP,
		"it is given to the user");
	used(life_user, "the user's already");
	check(helper(life_dropped) == 0 && lines == 0,
		"the user reads root's file, and writes");
	check(stat(in(dir, "naa.1"), &st) == 0 && st.st_uid == USER,
		"the file is the user's now");
	check(helper(life_dropped) == 3 && lines == 0,
		"the user's file is read, too");
	unused(life_same, "a user's, without -u");
	unlink(in(dir, "naa.1"));
	used(life_same, "a user's, empty");
	check(stat(dir, &st) == 0 && st.st_uid == geteuid(), "it is ours now");
	fresh();
	mkdir(dir, 0700);
	put_file("x", "", 0);
	check(chown(dir, USER + 1, GROUP) == 0, "another user's directory");
	unused(life_user, "another user's");
	fresh();
	mkdir(dir, 0700);
	put_file("naa.1", GOOD_TEXT, strlen(GOOD_TEXT));
	used(life_user, "root's, for a user");
	check(stat(dir, &st) == 0 && st.st_uid == USER, "is given to the user");
}

/* Written and read again */

static const char *const wwids[] = { "naa.6001405a", "t10.ACME   disk_1/2",
	"eui.-._\x7f\xff~", "8", "naa.all", "naa.empty" };

static void
fill(struct lun *l, int k)
{
	static const struct {
		uint64_t key, old;
		uint8_t changing, aptpl;
		dev_t map, holder;
	} t[] = {
		{ 0x123abc, 0, 0, APTPL_ON, 0xfd00, (dev_t)-1 },
		{ UINT64_MAX, 1, 1, APTPL_OFF, 0xfd01, 0 },
		{ 0, 5, 1, APTPL_UNKNOWN, 0, 0x810 },
		{ 0, 0, 0, APTPL_ON, 0xfd02, 0 },
		{ 1, 2, 1, APTPL_ON, (dev_t)-1, (dev_t)-1 },
		{ 0, 7, 0, APTPL_ON, 0xfd03, (dev_t)-1 },
	};
	int i;

	l->key = t[k].key;
	l->old = t[k].old;
	l->changing = t[k].changing;
	l->aptpl = t[k].aptpl;
	l->map = t[k].map;
	l->holder = t[k].holder;
	l->n = k == 4 ? MARKS_MAX : k == 5 ? 1 : k;
	for (i = 0; i < l->n; i++) {
		l->marks[i].dev = k == 4 ? (dev_t)-1 - (dev_t)i :
					   makedev(8, (unsigned)i * 16);
		l->marks[i].mark = k == 4 ? MARK_TAINTED : MARK_CLEAN;
		l->marks[i].failed = k == 3 ? i == 1 : k == 4;
	}
}

static int
same_lun(const struct lun *a, const struct lun *b)
{
	return a->key == b->key && a->old == b->old &&
		a->changing == b->changing && a->aptpl == b->aptpl &&
		a->map == b->map && a->holder == b->holder && a->n == b->n &&
		!memcmp(a->marks, b->marks, sizeof(a->marks[0]) *
			(size_t)a->n);
}

/* The last of them is saved but never put back. */
static int
life_fills(void)
{
	struct lun *l;
	int k;

	state_open(dir, &same);
	for (k = 0; k < (int)LEN(wwids); k++) {
		if (!(l = get(wwids[k])))
			return 1;
		fill(l, k);
		if (k == 4)
			state_save(l);
		else
			state_put(l);
	}
	kill(getpid(), SIGKILL);
	return 1;
}

/* How many differ from what was written; 100 for a wrong list. */
static int
life_compares(void)
{
	struct lun *l, want;
	char wwid[WWID_LEN];
	int i = 0, k, wrong = 0, n = 0;

	state_open(dir, &same);
	while (state_next(&i, wwid) == 0)
		n++;
	if (n != 5 || state_next(&i, wwid) == 0)
		return 100;
	for (k = 0; k < (int)LEN(wwids); k++) {
		memset(&want, 0, sizeof(want));
		if (k < 5)
			fill(&want, k);
		if (!(l = get(wwids[k])))
			return 101;
		wrong += !same_lun(l, &want);
		state_put(l);
	}
	return wrong;
}

static void
round_trip(void)
{
	ino_t was;

	fresh();
	check(helper(life_fills) == -SIGKILL, "a helper that is killed");
	check(exists("naa.6001405a") && exists("8") &&
		exists("t10.ACME_20_20_20disk_5f1_2f2") &&
		exists("eui.-._5f_7f_ff_7e"), "the names of its files");
	check(names() == 5, "none for what need not be remembered");
	was = inode("8");
	check(helper(life_compares) == 0 && lines == 0,
		"its successor knows everything");
	check(inode("8") == was, "and writes nothing that is there already");
}

static int
life_forgets(void)
{
	struct lun *l;

	state_open(dir, &same);
	if (!(l = get("8")) || l->n != 3)
		return 1;
	l->marks[1].failed = 0;
	state_put(l);
	return exists("8");
}

static int
life_rewrites(void)
{
	struct lun *l;
	ino_t was;

	state_open(dir, &same);
	l = get("naa.6001405a");
	was = inode(l->wwid);
	state_save(l);
	state_save(l);
	l->warned = 1;
	state_put(l);
	if (inode("naa.6001405a") != was)
		return 1;
	l = get("naa.6001405a");
	l->aptpl = APTPL_OFF;
	state_save(l);
	if (inode(l->wwid) == was)
		return 2;
	l->key = 0;
	state_save(l);
	if (exists(l->wwid))
		return 3;
	l->key = 9;
	state_put(l);
	return exists("naa.6001405a") ? 0 : 4;
}

static void
writing(void)
{
	check(helper(life_forgets) == 0 && lines == 0,
		"nothing left to remember: no file");
	check(helper(life_rewrites) == 0 && lines == 0,
		"written when it differs, only then");
	check(names() == 4, "no other name is left");
}

static int
life_torn(void)
{
	struct lun *l;

	state_open(dir, &same);
	l = get("naa.1");
	l->key = 2;
	die_in_rename = 1;
	state_put(l);
	return 0;
}

static int
life_key(void)
{
	struct lun *l;

	state_open(dir, &same);
	l = get("naa.1");
	return (int)l->key;
}

static void
torn(void)
{
	fresh();
	helper(life_same);
	check(helper(life_torn) == -SIGKILL, "killed before it renames");
	check(names() == 2, "leaves a temporary file");
	put_file("~99999999.1", "x", 1);
	put_file("~1.1", "x", 1); /* init lives */
	check(helper(life_key) == 1 && lines == 0, "what was before counts");
	check(names() == 2 && exists("~1.1"),
		"temporary files of the dead are removed");
}

/* What is no file of ours is no state, and stays. */

static int
life_verbose(void)
{
	verbosity = LOG_VERBOSE;
	return life_key();
}

static void
refused(const char *what)
{
	check(helper(life_key) == 0 && lines == 0, "%s: unknown", what);
	check(helper(life_verbose) == 0 && lines == 1 &&
		strstr(said, "naa.1"), "%s: one line with -v", what);
	check(exists("naa.1"), "%s: is left there", what);
}

static void
strangers(void)
{
	char text[8192];
	size_t len;

	fresh();
	helper(life_same);
	len = get_file("naa.1", text, sizeof(text));
	check(len > 0 && helper(life_key) == 1, "a file");
	/* Behind "boot " */
	text[22] ^= 1;
	put_file("naa.1", text, len);
	refused("another boot");
	text[22] ^= 1;
	used(life_same, "written again");
	check(helper(life_key) == 1, "and read");
	text[15] = '2';
	put_file("naa.1", text, len);
	refused("another version");
	text[15] = '1';
	put_file("naa.1", text, len - 1);
	refused("truncated");
	put_file("naa.1", "", 0);
	refused("empty");
	memset(text + len, 'x', sizeof(text) - len);
	put_file("naa.1", text, sizeof(text));
	refused("oversized");
	put_file("naa.2", text, len);
	unlink(in(dir, "naa.1"));
	check(helper(life_verbose) == 0 && lines == 1,
		"another unit's file under this name: unknown");
	unlink(in(dir, "naa.2"));
	put_file("naa.1", text, len);
	chmod(in(dir, "naa.1"), 0666);
	refused("writable for all");
	if (geteuid() == 0) {
		chmod(in(dir, "naa.1"), 0600);
		check(chown(in(dir, "naa.1"), USER, GROUP) == 0, "given away");
		refused("another user's file");
	}
	unlink(in(dir, "naa.1"));
	check(mkdir(in(dir, "naa.1"), 0700) == 0, "a directory");
	refused("a directory");
	rmdir(in(dir, "naa.1"));
	mkfifo(in(dir, "naa.1"), 0600);
	refused("a FIFO");
	unlink(in(dir, "naa.1"));
	put_file("../target", text, len);
	check(symlink("../target", in(dir, "naa.1")) == 0, "a link");
	refused("a symbolic link");
	used(life_same, "a symbolic link is replaced");
	check(helper(life_key) == 1, "by a file");
}

/* Where nothing can be written */

static int
fails(struct lun *l)
{
	int i;

	for (i = 0; i < 5; i++) {
		l->key++;
		state_save(l);
	}
	return l->key == 6 ? 0 : 1;
}

static int
life_limited(void)
{
	struct rlimit rl = { 20, RLIM_INFINITY };
	struct lun *l;

	state_open(dir, &same);
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &rl);
	l = get("naa.1");
	if (fails(l))
		return 1;
	/* The line itself is a file, too: it is lost here. */
	if (exists("naa.1"))
		return 2;
	rl.rlim_cur = RLIM_INFINITY;
	setrlimit(RLIMIT_FSIZE, &rl);
	state_put(l);
	return exists("naa.1") ? 0 : 3;
}

/* In a mount namespace of its own; 77: not allowed. */
static int
life_full(void)
{
	struct lun *l;
	int fd;

	if (unshare(CLONE_NEWNS) < 0 ||
		mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mkdir(dir, 0700) < 0 ||
		mount("none", dir, "tmpfs", 0, "size=8k,mode=700") < 0)
		return 77;
	state_open(dir, &same);
	l = get("naa.1");
	l->key = 1;
	state_save(l);
	if (!exists("naa.1"))
		return 1;
	fd = open(in(dir, "ballast"), O_WRONLY | O_CREAT, 0600);
	while (write(fd, dir, 1) == 1)
		;
	close(fd);
	if (fails(l) || exists("naa.1") || names() != 1)
		return 2;
	unlink(in(dir, "ballast"));
	state_put(l);
	return exists("naa.1") && names() == 1 ? 0 : 3;
}

static int
life_unwritable(void)
{
	struct lun *l;
	int r;

	state_open(dir, &user);
	chmod(dir, 0500);
	if (setresuid(USER, USER, USER))
		return 2;
	l = get("naa.1");
	r = fails(l);
	chmod(dir, 0700);
	state_save(l);
	l->key = 0;
	state_put(l);
	return r || exists("naa.1");
}

static int
life_long(void)
{
	char wwid[WWID_LEN];
	struct lun *l;
	int i;

	state_open(dir, &same);
	memset(wwid, ' ', sizeof(wwid) - 1);
	wwid[sizeof(wwid) - 1] = '\0';
	for (i = 0; i < 2; i++) {
		if (!(l = get(wwid)) || l->key != (uint64_t)i)
			return 1;
		l->key++;
		state_put(l);
	}
	return names();
}

static int
life_strange(void)
{
	static const char *const strange[] = { ".", "..", "a\nkey 1", "\n" };
	struct lun *l;
	size_t i;

	state_open(dir, &same);
	for (i = 0; i < LEN(strange); i++) {
		if (!(l = get(strange[i])))
			return 1;
		l->key++;
		state_put(l);
	}
	return l->key != 1;
}

static void
no_room(void)
{
	int r;

	fresh();
	helper(life_same);
	check(helper(life_limited) == 0,
		"a limit: the old file goes, the new one comes when it can");
	if (geteuid() != 0) {
		printf("# not root: no full and no unwritable directory\n");
		return;
	}
	fresh();
	r = helper(life_full);
	if (r == 77)
		printf("# no right to mount: no full file system\n");
	else
		check(r == 0, "a full file system: the same");
	if (r != 77)
		check(lines == 1 && strstr(said, "naa.1: No space left"),
			"and one line that names unit and reason");
	fresh();
	helper(life_user);
	check(helper(life_unwritable) == 0, "an unwritable directory");
	check(lines == 1 && strstr(said, "naa.1: Permission denied"),
		"one line that names unit and reason");
}

static void
odd_names(void)
{
	fresh();
	check(helper(life_long) == 0, "a name that is too long: in memory");
	check(lines == 1 && strstr(said, strerror(ENAMETOOLONG)),
		"one line says so");
	check(helper(life_strange) == 0, "strange names");
	check(helper(life_key) == 0, "and a successor");
}

/* All at once */

static void *
turns(void *arg)
{
	struct lun *l;
	int i;

	for (i = 0; i < TURNS; i++) {
		if (!(l = get(i % 2 ? "naa.all" : arg)))
			return NULL;
		l->key++;
		state_put(l);
	}
	return arg;
}

static int
life_threads(void)
{
	char own[THREADS][16], wwid[WWID_LEN];
	pthread_t t[THREADS];
	int i, k, n = 0;
	void *r;

	state_open(dir, &same);
	for (i = 0; i < THREADS; i++) {
		snprintf(own[i], sizeof(own[i]), "naa.%d", i + 1);
		pthread_create(&t[i], NULL, turns, own[i]);
	}
	for (k = 0; k < 100; k++) {
		i = 0;
		while (state_next(&i, wwid) == 0)
			n++;
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(t[i], &r);
		if (!r)
			return 1;
	}
	return n >= 0 && names() == THREADS + 1 ? 0 : 2;
}

static int
life_sum(void)
{
	state_open(dir, &same);
	if (get("naa.all")->key != THREADS * TURNS / 2)
		return 1;
	return get("naa.1")->key != TURNS / 2;
}

/* Others beside us */

/* A second process: it says what it does, and does as it is told. */
static int told[2], says[2];

static void
tell(int fd)
{
	if (write(fd, "", 1) != 1)
		_exit(9);
}

/* Was something said within so many milliseconds? */
static int
heard(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c;

	return poll(&p, 1, ms) == 1 && read(fd, &c, 1) == 1;
}

static int
other(void)
{
	struct lun *l;

	state_open(dir, NULL);
	if (!(l = get("naa.1")) || l->key != 5 || l->n != 1 || !l->loaded)
		return 1;
	tell(says[1]);
	if (!heard(told[0], 5000))
		return 2;
	l->key = 6;
	l->marks[0].mark = MARK_SET;
	state_put(l);
	if (!(l = get("naa.new")))
		return 3;
	l->key = 7;
	state_put(l);
	/* Only looked at */
	if (!(l = get("naa.2")) || l->key)
		return 4;
	state_put(l);
	tell(says[1]);
	if (!heard(told[0], 5000) || !(l = get("naa.1")))
		return 5;
	l->key = 0;
	l->n = 0;
	state_put(l);
	return 0;
}

static int
life_beside(void)
{
	struct lun *l, *m;
	char wwid[WWID_LEN];
	int i = 0, n = 0, status;
	struct stat st;
	pid_t pid;

	if (pipe(told) || pipe(says) || (pid = fork()) < 0)
		return 1;
	if (pid == 0)
		_exit(heard(told[0], 5000) ? other() : 99);
	state_open(dir, &user);
	l = get("naa.1");
	l->key = 5;
	l->n = 1;
	l->marks[0].dev = 1;
	l->marks[0].mark = MARK_CLEAN;
	state_save(l);
	tell(told[1]);
	if (heard(says[0], SHORT))
		return 2; /* it has not waited */
	state_put(l);
	if (!heard(says[0], 5000))
		return 3;
	if (state_get("naa.1", SHORT))
		return 4;
	if (!(m = state_get("naa.3", SHORT)))
		return 5; /* one that nobody has */
	state_put(m);
	tell(told[1]);
	if (!heard(says[0], 5000) || !(l = get("naa.1")))
		return 6;
	if (l->key != 6 || l->marks[0].mark != MARK_SET || !l->loaded)
		return 7;
	state_put(l);
	/* Nobody has asked for it here. */
	while (state_next(&i, wwid) == 0)
		n += strcmp(wwid, "naa.new") == 0 ? 10 : 1;
	if (n != 11)
		return 8;
	if (stat(in(dir, "naa.new"), &st) || st.st_uid != USER)
		return 9;
	tell(told[1]);
	if (waitpid(pid, &status, 0) != pid || status)
		return 20 + WEXITSTATUS(status);
	if (!exists("naa.1") || exists("naa.2"))
		return 10;
	l = get("naa.1");
	if (l->key || l->n)
		return 11;
	state_put(l);
	return exists("naa.1") ? 12 : 0;
}

static int
life_closes(void)
{
	struct lun *l;

	state_open(dir, &user);
	state_close();
	if (names() != 1)
		return 1;
	l = get("naa.new");
	l->key = 0;
	state_put(l);
	state_close();
	return rmdir(dir);
}

static void
others(void)
{
	int r;

	if (geteuid() != 0)
		return;
	fresh();
	r = helper(life_beside);
	check(r == 0 && lines == 0,
		"two processes take turns, and know what was done: %d", r);
	check(helper(life_closes) == 0 && lines == 0,
		"a directory without state can be removed");
}

static void
threads(void)
{
	fresh();
	check(helper(life_threads) == 0 && lines == 0, "many units at once");
	check(helper(life_sum) == 0, "each is kept");
}

int
main(void)
{
	char command[64];

	verbosity = LOG_ERRORS;
	umask(022);
	if (!mkdtemp(top) || chmod(top, 0755) < 0)
		return 1;
	good();
	mutilated();
	foreign();
	noise();
	directories();
	owners();
	round_trip();
	writing();
	torn();
	strangers();
	no_room();
	odd_names();
	threads();
	others();
	printf("1..%d\n", tests);
	snprintf(command, sizeof(command), "rm -rf %s", top);
	return system(command) != 0 || failed != 0;
}
