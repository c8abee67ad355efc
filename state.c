/* See LICENSE file for copyright and license details. */
/*
 * What is remembered of each logical unit, and whose turn it is: a unit is
 * lent to one command at a time. It is also kept in a file for each unit: for
 * a successor, and for others that run beside us (ctl.c). A unit that somebody
 * has is a byte of the file .turns that is locked, and its file may be another
 * one the next time. Neither SCSI nor device-mapper.
 */
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "prhelper.h"

enum {
	TEXT_MAX = 6144,         /* of a file: 440 bytes, 40 for each mark */
	NAME_LEN = 3 * WWID_LEN, /* of one, with its end */
	UNSURE = 1,              /* the hash of no text */
};

#define TURNS ".turns"

struct entry {
	struct lun lun; /* the first: who has it has the entry */
	uint64_t hash;  /* of the text in its file; 0: there is none */
};
static const char marks[][12] = { " none ", " clean ", " set ", " clear ",
	" gone ", " robbed ", " tainted " }; /* MARK_ */

/*
 * Filled from the front, each on the heap: a table of them would be large
 * enough for a huge page, which the first one would make resident.
 */
static struct entry *entries[LUNS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t returned;
static int files = -1;  /* their directory; -1: in memory only */
static int turns = -1;  /* the file for locks; -1: nobody else is expected */
static DIR *list;       /* of files */
static int beside;      /* another process serves, which removes files */
static uid_t owners[2]; /* whom we trust: ourselves, and the directory's */
static char boot[40] = "-";

static void
init(void)
{
	static int done;
	pthread_condattr_t attr;

	if (done)
		return;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&returned, &attr);
	pthread_condattr_destroy(&attr);
	done = 1;
}

/* Is there something that must not be forgotten? */
static int
matters(const struct lun *l)
{
	int i, yes = l->key || l->changing;

	for (i = 0; !yes && i < l->n; i++)
		yes = (l->marks[i].mark > MARK_CLEAN &&
			  l->marks[i].mark != MARK_GONE) ||
		    l->marks[i].failed;
	return yes;
}

/* Its entry; NULL: it is not known. */
static struct entry *
find(const char *wwid)
{
	int i;

	for (i = 0; i < LUNS_MAX && entries[i]; i++)
		if (strcmp(entries[i]->lun.wwid, wwid) == 0)
			return entries[i];
	return NULL;
}

/* Its entry, or one that can be made its own; NULL if there is none. */
static struct entry *
find_room(const char *wwid)
{
	struct entry *e = find(wwid);
	int i;

	if (e)
		return e;
	for (i = 0; i < LUNS_MAX && entries[i]; i++)
		if (!e && !entries[i]->lun.busy && !matters(&entries[i]->lun))
			e = entries[i];
	if (i < LUNS_MAX)
		e = entries[i] = malloc(sizeof(*e));
	if (e) {
		memset(e, 0, sizeof(*e));
		snprintf(e->lun.wwid, sizeof(e->lun.wwid), "%s", wwid);
	}
	return e;
}

static void
complain(const char *fmt, const char *wwid)
{
	static int64_t quiet_until;
	int64_t t = now();
	int quiet;

	pthread_mutex_lock(&lock);
	quiet = t < quiet_until;
	if (!quiet)
		quiet_until = t + WARN_TIME;
	pthread_mutex_unlock(&lock);
	if (!quiet)
		warn(fmt, wwid);
}

/* Its file's name: the wwid, all but letters, digits, '-' and '.' in hex. */
static void
file_name(char name[NAME_LEN], const char *wwid)
{
	uint8_t c;

	*name = '\0';
	while ((c = (uint8_t)*wwid++))
		name += snprintf(name, 4,
		    isalnum(c) || c == '-' || c == '.' ? "%c" : "_%02x", c);
}

/* The length of the text. */
static size_t
print(char text[TEXT_MAX], const struct lun *l)
{
	const struct mark *m;
	size_t n;

	n = (size_t)snprintf(text, TEXT_MAX,
	    "prhelper-state 1\nboot %s\nwwid %s\nkey %llx\nold %llx\n"
	    "changing %d\nghosts %d\naptpl %d\nmap %u:%u\nholder %u:%u",
	    boot, l->wwid, (unsigned long long)l->key,
	    (unsigned long long)l->old, l->changing, l->ghosts, l->aptpl,
	    major(l->map), minor(l->map), major(l->holder), minor(l->holder));
	for (m = l->marks; m < l->marks + l->n; m++)
		n += (size_t)snprintf(text + n, TEXT_MAX - n,
		    "\nmark %u:%u%s%d", major(m->dev), minor(m->dev),
		    marks[m->mark], m->failed);
	return n + (size_t)snprintf(text + n, TEXT_MAX - n, "\nend\n");
}

/* The number behind the next blank. */
static uint64_t
number_at(char **p, int base)
{
	*p += strcspn(*p, " ");
	return strtoull(*p, p, base);
}

static dev_t
dev_at(char **p)
{
	unsigned int ma = (unsigned int)number_at(p, 10), mi;

	*p += strspn(*p, ":");
	mi = (unsigned int)strtoull(*p, p, 10);
	/* musl's is a macro that evaluates its arguments twice */
	return makedev(ma, mi);
}

/* 0, or -1: the path has a mark already. */
static int
mark_at(char **p, struct lun *l)
{
	struct mark *m = &l->marks[l->n++];
	int i;

	m->dev = dev_at(p);
	for (i = MARK_NONE; i <= MARK_TAINTED; i++)
		if (strncmp(*p, marks[i], strlen(marks[i])) == 0)
			m->mark = (uint8_t)i;
	*p += strspn(*p, " ");
	m->failed = (uint8_t)number_at(p, 2);
	for (i = 0; l->marks[i].dev != m->dev; i++)
		;
	return i == l->n - 1 ? 0 : -1;
}

/* Hardly looked at on the way: it must print as it was. */
int
state_parse(char *text, struct lun *l)
{
	char again[TEXT_MAX], *p;
	size_t n;

	memset(l, 0, sizeof(*l));
	if (!(p = strstr(text, "\nwwid ")))
		return -1;
	p += strlen("\nwwid ");
	if ((n = strcspn(p, "\n")) < 1 || n >= WWID_LEN)
		return -1;
	memcpy(l->wwid, p, n);
	p += n;
	l->key = number_at(&p, 16);
	l->old = number_at(&p, 16);
	l->changing = (uint8_t)number_at(&p, 2);
	l->ghosts = (uint8_t)number_at(&p, 10);
	l->aptpl = (uint8_t)number_at(&p, APTPL_ON + 1);
	l->map = dev_at(&p);
	l->holder = dev_at(&p);
	while (l->n < MARKS_MAX && strncmp(p, "\nmark ", 6) == 0)
		if (mark_at(&p, l) < 0)
			return -1;
	print(again, l);
	return strcmp(again, text) == 0 ? 0 : -1;
}

/* What was never finished, by somebody who does not live any more. */
static void
tidy(const char *file)
{
	if (!pid_alive((pid_t)strtol(file + 1, NULL, 10)))
		unlinkat(files, file, 0);
}

/* Whoever reads, or comes after us, finds all of the text, or the old one. */
static int
write_file(const char *name, const char *text, size_t len)
{
	char tmp[NAME_LEN + 16];
	ssize_t n;
	int err, fd, ours;

	snprintf(tmp, sizeof(tmp), "~%ld.%s", (long)getpid(), name);
	fd = openat(files, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	for (; len > 0 && (n = write(fd, text, len)) > 0; len -= (size_t)n)
		text += n;
	/* Who serves must be able to read it. */
	ours = !beside || fchown(fd, owners[1], (gid_t)-1) == 0;
	if (close(fd) == 0 && len == 0 && ours &&
	    renameat(files, tmp, files, name) == 0)
		return 0;
	err = errno;
	unlinkat(files, tmp, 0);
	errno = err;
	return -1;
}

static uint64_t
hash(const char *text, size_t len)
{
	uint64_t h = 0;

	while (len-- > 0)
		h = (h ^ (uint8_t)*text++) * 0x100000001b3; /* FNV */
	return h;
}

void
state_save(struct lun *l)
{
	struct entry *e = (struct entry *)l;
	char name[NAME_LEN], text[TEXT_MAX];
	/* Who serves must see what we have given up, and takes it away. */
	const int kept = matters(l) || (beside && e->hash);
	size_t len = kept ? print(text, l) : 0;
	uint64_t h = hash(text, len);

	if (files < 0 || h == e->hash)
		return;
	e->hash = h;
	file_name(name, l->wwid);
	if (len && write_file(name, text, len) == 0)
		return;
	if (len)
		complain("state file of %s:", l->wwid);
	/* What is there must not pass for the truth. */
	e->hash = 0;
	if (unlinkat(files, name, 0) < 0 && errno != ENOENT) {
		complain("state file of %s: cannot be removed:", l->wwid);
		e->hash = UNSURE;
	}
}

static int
trusted(const struct stat *st)
{
	if ((st->st_uid == owners[0] || st->st_uid == owners[1]) &&
	    !(st->st_mode & (S_IWGRP | S_IWOTH)))
		return 1;
	errno = EPERM;
	return 0;
}

/* The length of its text; -1: there is none that can be trusted. */
static ssize_t
read_file(const char *file, char text[TEXT_MAX])
{
	struct stat st;
	ssize_t n = -1;
	int fd;

	fd =
	    openat(files, file, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && trusted(&st))
		n = read(fd, text, TEXT_MAX);
	close(fd);
	if (n == TEXT_MAX)
		n = 0;
	if (n >= 0)
		text[n] = '\0';
	return n < 0 || strlen(text) == (size_t)n ? n : 0;
}

/* What the file of a unit says: with its hash, 0 if that is nothing. */
static void
read_unit(struct entry *e, const char *file, const char *wwid)
{
	char text[TEXT_MAX];
	ssize_t n = read_file(file, text);

	e->hash = 0;
	if (n >= 0 && state_parse(text, &e->lun) == 0 &&
	    strcmp(e->lun.wwid, wwid) == 0)
		e->hash = hash(text, (size_t)n);
	e->lun.loaded = 1;
}

/*
 * Somebody else may have had it since. A file that is missing says nothing.
 */
static void
refresh(struct entry *e)
{
	char name[NAME_LEN];
	struct entry new;

	file_name(name, e->lun.wwid);
	read_unit(&new, name, e->lun.wwid);
	if (!new.hash || new.hash == e->hash || e->hash == UNSURE)
		return;
	new.lun.busy = 1;
	*e = new;
}

/*
 * Lock the byte of a unit, or let go of it; so many bits of it that no two are
 * the same. Threads of one process do not keep each other out.
 */
static int
lock_byte(const char *wwid, short type)
{
	struct flock fl = { .l_type = type, .l_len = 1 };

	fl.l_start = (off_t)(hash(wwid, strlen(wwid)) >> 2);
	return turns < 0 || fcntl(turns, F_OFD_SETLK, &fl) == 0 ||
		(errno != EAGAIN && errno != EACCES) ?
	    0 :
	    -1;
}

/* From other processes; a lock that waits could not be given up. */
static int
exclude_others(const char *wwid, int64_t end)
{
	while (lock_byte(wwid, F_WRLCK) < 0) {
		if (now() >= end)
			return -1;
		wait_until(now() + RETRY_TIME);
	}
	return 0;
}

static void
give_back(struct lun *l)
{
	pthread_mutex_lock(&lock);
	l->busy = 0;
	pthread_cond_broadcast(&returned);
	pthread_mutex_unlock(&lock);
}

/* From other threads of this process. */
static struct entry *
borrow(const char *wwid, int64_t end)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(end / 1000),
		.tv_nsec = (long)(end % 1000) * 1000000,
	};
	struct entry *e;
	int got;

	pthread_mutex_lock(&lock);
	init();
	/* Looked up anew each time: the entry may be another's by now. */
	while ((e = find_room(wwid)) && e->lun.busy && now() < end)
		pthread_cond_timedwait(&returned, &lock, &ts);
	got = e && !e->lun.busy;
	if (got)
		e->lun.busy = 1;
	pthread_mutex_unlock(&lock);
	if (!e)
		complain("%s: no room to remember it beside others", wwid);
	return got ? e : NULL;
}

struct lun *
state_get(const char *wwid, int ms)
{
	const int64_t end = now() + ms;
	struct entry *e = borrow(wwid, end);

	if (!e || files < 0)
		return e ? &e->lun : NULL;
	if (exclude_others(wwid, end) < 0) {
		give_back(&e->lun);
		return NULL;
	}
	refresh(e);
	return &e->lun;
}

void
state_put(struct lun *l)
{
	state_save(l);
	lock_byte(l->wwid, F_UNLCK);
	give_back(l);
}

/* The wwid that makes this file's name. */
static void
unit_name(char wwid[WWID_LEN], const char *file)
{
	const char *end = wwid + (WWID_LEN - 1);
	char hex[3] = "";

	while (*file && wwid < end) {
		if (*file == '_' && file[1]) {
			memcpy(hex, file + 1, 2);
			*wwid++ = (char)strtoul(hex, NULL, 16);
			file += 2;
		} else {
			*wwid++ = *file;
		}
		file++;
	}
	*wwid = '\0';
}

/* A file that may be of a unit that is not known here. */
static void
look_into(const char *file, int tell)
{
	char wwid[WWID_LEN], name[NAME_LEN];
	struct entry *e, new;

	unit_name(wwid, file);
	file_name(name, wwid);
	if (strcmp(name, file) != 0)
		return;
	pthread_mutex_lock(&lock);
	e = find(wwid);
	if (!e || (!e->lun.busy && !e->hash)) {
		read_unit(&new, file, wwid);
		if (!new.hash && tell)
			say(LOG_VERBOSE,
			    "state file %s: not of ours and this boot", file);
		else if (new.hash && (e = find_room(wwid)))
			*e = new;
	}
	pthread_mutex_unlock(&lock);
}

/* What others have written since the last time. One thread only. */
static void
look_around(int tell)
{
	static time_t seen; /* all that was written before it */
	const struct dirent *f;
	struct stat st;
	time_t t = time(NULL);

	if (!list || fstat(files, &st) < 0 || st.st_mtime < seen)
		return;
	seen = t - 1; /* a file's time may be some ms behind */
	rewinddir(list);
	while ((f = readdir(list)))
		if (f->d_name[0] != '.' && f->d_name[0] != '~')
			look_into(f->d_name, tell);
}

int
state_next(int *i, char wwid[WWID_LEN])
{
	const struct lun *l;
	int r = -1;

	if (*i == 0)
		look_around(0);
	pthread_mutex_lock(&lock);
	for (; r < 0 && *i < LUNS_MAX && entries[*i]; ++*i) {
		l = &entries[*i]->lun;
		/* Only who has it may look into it; that one sees to it. */
		if (l->busy || !matters(l))
			continue;
		memcpy(wwid, l->wwid, WWID_LEN);
		r = 0;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

int
state_busy(void)
{
	int i, busy = 0;

	pthread_mutex_lock(&lock);
	for (i = 0; i < LUNS_MAX && entries[i]; i++)
		busy |= entries[i]->lun.busy;
	pthread_mutex_unlock(&lock);
	return busy;
}

/* For whom it is: the user of the helper, or who has it already. */
static int
open_dir(const char *dir, const struct ids *ids)
{
	char name[PATH_MAX];
	struct stat st;
	int fd = -1;

	owners[0] = owners[1] = geteuid();
	if (ids && ids->uid != (uid_t)-1)
		owners[1] = ids->uid;
	/* An empty one may be of another user whom we had. */
	if (lstat(dir, &st) == 0 && ids && !trusted(&st)) {
		snprintf(name, sizeof(name), "%s/" TURNS, dir);
		unlink(name);
		rmdir(dir);
	}
	if ((mkdir(dir, 0700) == 0 || errno == EEXIST) &&
	    (fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) >=
		0 &&
	    fstat(fd, &st) == 0) {
		if (!ids)
			owners[1] = st.st_uid;
		if (trusted(&st) &&
		    (!ids || fchown(fd, ids->uid, ids->gid) == 0))
			return fd;
	}
	warn("state directory %s: not used%s:", dir,
	    fd < 0 ? "" : "; it must be ours, and writable for nobody else");
	if (fd >= 0)
		close(fd);
	return -1;
}

static void
read_boot(void)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, boot, sizeof(boot) - 1) > 0)
		boot[strcspn(boot, "\n")] = '\0';
	if (fd >= 0)
		close(fd);
}

int
state_open(const char *dir, const struct ids *ids)
{
	const struct dirent *f;

	read_boot();
	beside = !ids;
	if ((files = open_dir(dir, ids)) < 0 || !(list = fdopendir(dup(files))))
		return files;
	turns = openat(files, TURNS,
	    O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (turns < 0 || fchown(turns, owners[1], (gid_t)-1) < 0)
		warn("state directory %s: " TURNS ":", dir);
	while (!beside && (f = readdir(list)))
		if (f->d_name[0] == '~')
			tidy(f->d_name);
	look_around(1);
	return files;
}

void
state_close(void)
{
	struct flock all = { .l_type = F_WRLCK };
	const struct dirent *f;
	int empty = 1;
	DIR *d;

	/* A thread may be in list still. */
	if (fcntl(turns, F_OFD_SETLK, &all) < 0 || !(d = fdopendir(dup(files))))
		return;
	rewinddir(d);
	while ((f = readdir(d)))
		empty &= strcmp(f->d_name, ".") == 0 ||
		    strcmp(f->d_name, "..") == 0 ||
		    strcmp(f->d_name, TURNS) == 0;
	closedir(d);
	if (empty)
		unlinkat(files, TURNS, 0);
}
