/* A disk that is full, or slow to sync, for the process that preloads this.
 *
 * CHAOS_DISK names a file of two ints that others write: whether the disk is full (1: every write to
 * a regular file fails with ENOSPC), and the milliseconds that each fsync takes. Logs (descriptors 1
 * and 2) are spared. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static volatile int *disk;

__attribute__((constructor)) static void look(void) {
  const char *name = getenv("CHAOS_DISK");
  int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *found = mmap(NULL, 2 * sizeof(int), PROT_READ, MAP_SHARED, fd, 0);
  if (found != MAP_FAILED) disk = found;
  close(fd);
}

static int is_full(int fd) {
  struct stat about;
  if (!disk || !disk[0] || fd <= 2 || fstat(fd, &about) || !S_ISREG(about.st_mode)) return 0;
  errno = ENOSPC;
  return 1;
}

static void wait_for_disk(void) {
  if (!disk || disk[1] <= 0) return;
  struct timespec time = {disk[1] / 1000, disk[1] % 1000 * 1000000L};
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
