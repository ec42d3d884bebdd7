/* Faults of a disk, for a process that has this in LD_PRELOAD: death at a step, an errno, a delay.
 *
 *     faults_kill_at(n, half)   from inside: die by SIGKILL before the n-th change of a file in $FAULTS_FOLDER;
 *                               with `half`, after the first half of it if it is a write
 *     $FAULTS_FILE              from outside, read at each call: `flock 37` (errno), `sync_ms 3000`
 *     $FAULTS_TRACE             a line for each sync of a file in $FAULTS_FOLDER once it is done (`synced PATH`), and for
 *                               each packet with $FAULTS_NEEDLE in it before it is sent (`sent`)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long steps_left = -1;
static int halves;

void faults_kill_at(long n, int half) { steps_left = n; halves = half; }

static int is_ours(const char *path) {
    const char *folder = getenv("FAULTS_FOLDER");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static const char *path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    return path;
}

static int is_ours_fd(int fd) { char path[PATH_MAX]; return is_ours(path_of(fd, path)); }

static int is_last(int ours) { return steps_left > 0 && ours && --steps_left == 0; }

static void step(int ours) { if (is_last(ours)) kill(getpid(), SIGKILL); }

static long setting(const char *name) {
    const char *file = getenv("FAULTS_FILE");
    char found[64];
    long value, result = 0;
    FILE *stream = file ? fopen(file, "r") : NULL;
    if (!stream) return 0;
    while (fscanf(stream, "%63s %ld", found, &value) == 2)
        if (strcmp(found, name) == 0) result = value;
    fclose(stream);
    return result;
}

static void delay(int ours) {
    long ms = ours ? setting("sync_ms") : 0;
    if (ms) nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void trace(const char *what, const char *path) {
    const char *file = getenv("FAULTS_TRACE");
    char line[PATH_MAX + 16];
    int fd = file ? REAL(open64)(file, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (fd < 0) return;
    int size = snprintf(line, sizeof line, "%s %s\n", what, path);
    if (REAL(write)(fd, line, (size_t)size) < 0) abort();
    close(fd);
}

static int synced(int fd, int result) {
    char path[PATH_MAX];
    int failure = errno;
    if (result == 0 && is_ours_fd(fd)) trace("synced", path_of(fd, path));
    errno = failure;
    return result;
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    const char *needle = getenv("FAULTS_NEEDLE");
    if (needle && memmem(data, size, needle, strlen(needle))) trace("sent", "");
    return REAL(send)(fd, data, size, flags);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (is_last(is_ours_fd(fd))) {
        if (halves) REAL(pwrite64)(fd, data, size / 2, at);
        kill(getpid(), SIGKILL);
    }
    return REAL(pwrite64)(fd, data, size, at);
}

ssize_t write(int fd, const void *data, size_t size) { step(is_ours_fd(fd)); return REAL(write)(fd, data, size); }
int ftruncate64(int fd, off64_t size) { step(is_ours_fd(fd)); return REAL(ftruncate64)(fd, size); }
int fsync(int fd) { int ours = is_ours_fd(fd); step(ours); delay(ours); return synced(fd, REAL(fsync)(fd)); }
int fdatasync(int fd) { int ours = is_ours_fd(fd); step(ours); delay(ours); return synced(fd, REAL(fdatasync)(fd)); }
int unlink(const char *path) { step(is_ours(path)); return REAL(unlink)(path); }
int rename(const char *from, const char *to) { step(is_ours(from)); return REAL(rename)(from, to); }

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    step(flags & O_CREAT && is_ours(path));
    return REAL(open64)(path, flags, mode);
}

int flock(int fd, int how) {
    int failure = (int)setting("flock");
    if (failure) { errno = failure; return -1; }
    return REAL(flock)(fd, how);
}
