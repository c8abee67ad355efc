/* See LICENSE file for copyright and license details. */
/*
 * A path: what sysfs says of it, and its node, which only this file opens.
 * No SCSI.
 */
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "prhelper.h"

#define SYSFS "/sys/dev/block"

enum {
	SLOTS = 64,      /* of devices that were complained of */
	SD_MINORS = 16,  /* sd: the disk, then its partitions */
	LINK_LEN = 1024, /* the way to a disk may lead over many bridges */
	NODE_LEN = 40,   /* the kernel's name for a disk has at most 31 bytes */
	VPD_HEAD = 4,    /* of page 83h, and of each designator in it */
	TARGET_PORT = 1, /* the association of a designator, and its type: */
	RELATIVE_PORT = 4,
};

/*
 * May we complain of this device? Not again within WARN_TIME; of two that
 * meet in one slot only the first, so that no number of them fills the log.
 */
static int
may_warn(dev_t dev)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static int64_t quiet_until[SLOTS];
	int64_t *q = &quiet_until[minor(dev) / SD_MINORS % SLOTS];
	int64_t t = now();
	int yes;

	pthread_mutex_lock(&lock);
	yes = t >= *q;
	if (yes)
		*q = t + WARN_TIME;
	pthread_mutex_unlock(&lock);
	return yes;
}

/*
 * Open a file that sysfs has of a block device. openat(): to an open() that
 * has O_CLOEXEC musl adds a system call.
 */
static int
open_attribute(dev_t dev, const char *name, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), SYSFS "/%u:%u/%s", major(dev), minor(dev),
	    name);
	return openat(AT_FDCWD, path, flags | O_CLOEXEC);
}

/* Read one; -1 also if it is longer. */
static int
attribute(dev_t dev, const char *name, char *buf, size_t size)
{
	ssize_t n;
	int fd;

	if ((fd = open_attribute(dev, name, O_RDONLY)) < 0)
		return -1;
	n = read(fd, buf, size);
	close(fd);
	if (n < 0 || (size_t)n == size)
		return -1;
	while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == ' '))
		n--;
	buf[n] = '\0';
	return n > 0 ? 0 : -1;
}

int
path_wwid(dev_t dev, char wwid[WWID_LEN])
{
	return attribute(dev, "device/wwid", wwid, WWID_LEN);
}

uint64_t
path_size(dev_t dev)
{
	char buf[32], *p;
	uint64_t n = 0;

	if (attribute(dev, "size", buf, sizeof(buf)) < 0)
		return 0;
	for (p = buf; *p >= '0' && *p <= '9'; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	return *p ? 0 : n;
}

int
path_busy(dev_t dev)
{
	char buf[32];

	return attribute(dev, "device/device_busy", buf, sizeof(buf)) == 0 &&
	    number(buf) > 0;
}

void
path_rescan(dev_t dev)
{
	int fd = open_attribute(dev, "device/rescan", O_WRONLY);

	if (fd < 0)
		return;
	say(LOG_VERBOSE, "path %u:%u has no size: the kernel looks again",
	    major(dev), minor(dev));
	if (write(fd, "1", 1) < 0)
		warn("path %u:%u: device/rescan:", major(dev), minor(dev));
	close(fd);
}

int
path_port(dev_t dev)
{
	uint8_t page[LINK_LEN] = { 0 };
	ssize_t i, n = -1;
	int fd = open_attribute(dev, "device/vpd_pg83", O_RDONLY);

	if (fd >= 0) {
		n = read(fd, page, sizeof(page));
		close(fd);
	}
	for (i = VPD_HEAD; i + VPD_HEAD + VPD_HEAD <= n;
	     i += VPD_HEAD + page[i + 3])
		if ((page[i + 1] >> 4 & 3) == TARGET_PORT &&
		    (page[i + 1] & 0x0f) == RELATIVE_PORT)
			return page[i + 6] << 8 | page[i + 7];
	return -1;
}

/* The last name of where its link in sysfs leads. */
static int
kernel_name(dev_t dev, char *buf, size_t size)
{
	char path[64], link[LINK_LEN], *p;
	ssize_t n;

	snprintf(path, sizeof(path), SYSFS "/%u:%u", major(dev), minor(dev));
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0 || (size_t)n == sizeof(link) - 1)
		return -1;
	link[n] = '\0';
	if (!(p = strrchr(link, '/')) || strlen(p) > size)
		return -1;
	snprintf(buf, size, "%s", p + 1);
	return 0;
}

int
path_name(dev_t dev, char name[PATH_NAME])
{
	if (attribute(dev, "dm/name", name, PATH_NAME) == 0 ||
	    kernel_name(dev, name, PATH_NAME) == 0)
		return 0;
	snprintf(name, PATH_NAME, "%u:%u", major(dev), minor(dev));
	return -1;
}

int
path_state(dev_t dev, char state[STATE_LEN])
{
	if (attribute(dev, "device/state", state, STATE_LEN) == 0)
		return 0;
	snprintf(state, STATE_LEN, "gone");
	return -1;
}

/*
 * Only what runs is sent to: a command to a blocked path would wait in the
 * kernel without a timer and be executed some time.
 */
static uint8_t
usable(dev_t dev)
{
	static atomic_int warned;
	char buf[STATE_LEN];

	if (path_state(dev, buf) < 0) {
		if (access(SYSFS, F_OK) == 0)
			return SG_DEAD;
		if (!atomic_exchange(&warned, 1))
			warn("multipath needs " SYSFS ":");
		return SG_UNUSABLE;
	}
	if (strcmp(buf, "running") == 0)
		return SG_ANSWERED;
	return strcmp(buf, "offline") == 0 ||
		strcmp(buf, "transport-offline") == 0 ?
	    SG_DEAD :
	    SG_UNUSABLE;
}

static int
same_unit(dev_t dev, const char *wwid)
{
	char own[WWID_LEN];

	if (path_wwid(dev, own) < 0)
		snprintf(own, sizeof(own), "nameless");
	if (strcmp(own, wwid) == 0)
		return 1;
	if (may_warn(dev))
		warn("path %u:%u is of another logical unit: %s, not %s",
		    major(dev), minor(dev), own, wwid);
	return 0;
}

/*
 * What an open() that failed means. No node for a disk that the kernel has:
 * a private /dev, as libvirt makes, without this path.
 */
static uint8_t
failed(dev_t dev, const char *node)
{
	int err = errno;
	uint8_t how;

	if (err == ENXIO || err == ENODEV)
		return SG_DEAD;
	if (err == ENOENT && (how = usable(dev)) != SG_ANSWERED)
		return how;
	errno = err;
	if (err == EPERM || err == EACCES || err == ENOENT) {
		if (may_warn(dev))
			warn("path %u:%u is not used: device cgroup, rights or "
			     "a private /dev keep us from %s:",
			    major(dev), minor(dev), node);
	} else {
		say(LOG_VERBOSE, "path %u:%u: %s: %s", major(dev), minor(dev),
		    node, strerror(err));
	}
	return SG_UNUSABLE;
}

int
path_open(dev_t dev, const char *wwid, uint8_t *how)
{
	char node[NODE_LEN] = "/dev/", *name = node + strlen(node);
	struct stat st;
	int fd;

	if ((*how = usable(dev)) != SG_ANSWERED)
		return -1;
	*how = SG_UNUSABLE;
	if ((wwid[0] && !same_unit(dev, wwid)) ||
	    kernel_name(dev, name, sizeof(node) - strlen(node)) < 0)
		return -1;
	fd = openat(AT_FDCWD, node, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) {
		*how = failed(dev, node);
		return -1;
	}
	if (fstat(fd, &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == dev)
		return fd;
	close(fd);
	if (may_warn(dev))
		warn("path %u:%u is not used: %s is another device", major(dev),
		    minor(dev), node);
	return -1;
}
