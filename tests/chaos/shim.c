/* A disk that is full, or slow to sync, and a clock that was set, for the process that preloads this.
 *
 * CHAOS_HOST names a file of three ints that others write: whether the disk is full (1: every
 * write to a regular file fails with ENOSPC), the milliseconds that each fsync takes, and the seconds
 * by which the clock of the day is ahead. Logs (descriptors 1 and 2) are spared. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static volatile int *host; /* full, milliseconds of an fsync, seconds ahead */

__attribute__((constructor)) static void look(void) {
  const char *name = getenv("CHAOS_HOST");
  int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *found = mmap(NULL, 3 * sizeof(int), PROT_READ, MAP_SHARED, fd, 0);
  if (found != MAP_FAILED) host = found;
  close(fd);
}

static int is_full(int fd) {
  struct stat about;
  if (!host || !host[0] || fd <= 2 || fstat(fd, &about) || !S_ISREG(about.st_mode)) return 0;
  errno = ENOSPC;
  return 1;
}

static void wait_for_disk(void) {
  if (!host || host[1] <= 0) return;
  struct timespec time = {host[1] / 1000, host[1] % 1000 * 1000000L};
  nanosleep(&time, NULL);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *from, size_t bytes) {
  static ssize_t (*real)(int, const void *, size_t);
  if (!real) real = REAL(write);
  return is_full(fd) ? -1 : real(fd, from, bytes);
}

ssize_t writev(int fd, const struct iovec *from, int number) {
  static ssize_t (*real)(int, const struct iovec *, int);
  if (!real) real = REAL(writev);
  return is_full(fd) ? -1 : real(fd, from, number);
}

int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = REAL(fsync);
  wait_for_disk();
  return real(fd);
}

int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = REAL(fdatasync);
  wait_for_disk();
  return real(fd);
}

static int ahead(void) { return host ? host[2] : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
  static __typeof__(&clock_gettime) real;
  if (!real) real = REAL(clock_gettime);
  int failed = real(clock, now);
  if (!failed && clock == CLOCK_REALTIME) now->tv_sec += ahead();
  return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
  static int (*real)(struct timeval *, void *);
  if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
  int failed = real(now, zone);
  if (!failed) now->tv_sec += ahead();
  return failed;
}

time_t time(time_t *to) {
  static time_t (*real)(time_t *);
  if (!real) real = REAL(time);
  time_t now = real(NULL) + ahead();
  if (to) *to = now;
  return now;
}
