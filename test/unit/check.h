/* See LICENSE file for copyright and license details. */
/* One line of TAP for each check; stdio.h comes first. */

static int tests, failed;

static void
check(int ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, name);
	failed += !ok;
}

/* How libc calls the number of an ioctl() that a test has its own of */
#ifdef __GLIBC__
typedef unsigned long ioctl_t;
#else
typedef int ioctl_t;
#endif
