/* See LICENSE file for copyright and license details. */
/* What every test program that talks to a helper needs; see client.c. */
#include <stddef.h>

#define CDBLEN   16
#define SENSELEN 96
#define HDRLEN   (4 + 4 + SENSELEN)
#define DATAMAX  8192
#define MAXFDS   250	/* of one sendmsg; the kernel takes 253, musl 252 */
#define LINEMAX  (16 + 2 * (SENSELEN + DATAMAX) + 3)

struct answer {
	int status;
	int size;
	unsigned char sense[SENSELEN];
	unsigned char data[DATAMAX];
};

long long now_ms(void);
/* Numbers of n bytes, big-endian. */
unsigned long getbe(const unsigned char *p, int n);
void putbe(unsigned char *p, unsigned long v, int n);
/* Length of the parameter list (OUT) or the allocation length (IN). */
size_t cdb_len(const unsigned char *cdb);
/* A connected socket, or -1; no handshake. */
int dial(const char *path);
/* n bytes within ms (-1: for ever): bytes read, fewer if closed or late. */
size_t readn(int fd, void *buf, size_t n, int ms);
/* 0 if all went out, -1 otherwise. */
int writen(int fd, const void *buf, size_t n);
/* One sendmsg with nfds descriptors attached (none: 0); 0 or -1. */
int sendfds(int fd, const void *buf, size_t n, const int *fds, int nfds);
/* Takes the features and writes zeros as QEMU does: the features or -1. */
long handshake(int fd, int ms);
/* 0 read, -1 connection closed or late, -2 the reply breaks the contract. */
int readanswer(int fd, const unsigned char *cdb, struct answer *a, int ms);
/*
 * Without a helper: SG_IO. What is no SCSI status at all is told as status ff.
 */
void direct(int disk, const unsigned char *cdb, const unsigned char *param,
    size_t len, struct answer *a);
/* "SS K/AA/QQ PAYLOADHEX", with the raw sense data if raw; returns buf. */
char *answer_line(char *buf, const struct answer *a, int raw);
/* Hexadecimal digits to at most max bytes: the number, or -1. */
long unhex(unsigned char *buf, size_t max, const char *s, size_t len);
