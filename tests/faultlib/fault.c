/*
 * Fails chosen file calls of the process that it is preloaded into (LD_PRELOAD), or only counts them, or records what they
 * change, so that tests can ask "and if exactly this call had failed?" of the real binary on a real file system.
 *
 * Built by tests/it/fault_shim.rs, which also explains the settings to whoever writes a test:
 *
 *   FAULT_UNDER    folders, separated by ':'; calls on paths in them are looked at, all others pass
 *   FAULT_FAMILY   families of calls to count, separated by ',' (see `families`)
 *   FAULT_AT       the number of the call to fail, counted from 1; 0 or absent: none
 *   FAULT_ON       1: every counted call after that one fails too
 *   FAULT_KIND     an errno in digits; "short": half of what was asked for; "torn": half, and ENOSPC from then on;
 *                  "eof": a read finds the end
 *   FAULT_LOG      file to which each counted call is appended as a line: `family path`, after a '!' if it failed
 *   FAULT_SECONDS  after this time the process is ended by SIGALRM: one that hangs must not hold its test up
 *   FAULT_RECORD   file to which each change below FAULT_UNDER is appended (see `record`), in the order it was made
 *
 * A failed call is not made, with three exceptions: a close that fails has closed, as Linux does it; a sync that fails has
 * synced nothing we promise; a short one is made with half the length. And once locks fail for good, a sleep is a thousandth as
 * long: SQLite asks again as often as ever for what will not come, without its ten seconds.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum family { OPEN, READ, WRITE, SYNC, RENAME, UNLINK, TRUNCATE, MKDIR, STAT, LIST, LOCK, CLOSE, MAP, FAMILIES };
static const char *const families[FAMILIES] = {"open",     "read",  "write", "sync", "rename", "unlink", "truncate",
                                               "mkdir", "stat",  "list", "lock",   "close",  "map"};

enum { PASS = 0, SHORT = -1, END = -2 };
static int counted[FAMILIES];
static const char *under;
static long fail_at, fail_on;
static int kind;
static int torn;
static int log_fd = -1, record_fd = -1;
static atomic_long calls;
/* No lock will be had any more. */
static atomic_int is_lockless;
/* Recorded changes happen one at a time, so that the record has the order of the changes. */
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;

/* The libc's own function, looked up once; a race only looks it up twice. */
#define REAL(result, name, ...)                                                                                        \
    static result (*real_##name)(__VA_ARGS__);                                                                         \
    if (!real_##name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name)

static int append_to(const char *variable) {
    const char *path = getenv(variable);
    /* By the system call: our own `open` is not to count it. Far from the descriptors that a program expects. */
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    return fd;
}

__attribute__((constructor)) static void settings(void) {
    const char *wanted = getenv("FAULT_FAMILY"), *at = getenv("FAULT_AT"), *what = getenv("FAULT_KIND");
    for (int f = 0; wanted && f < FAMILIES; f++) {
        size_t length = strlen(families[f]);
        for (const char *p = wanted; (p = strstr(p, families[f])); p += length)
            if ((p == wanted || p[-1] == ',') && (p[length] == ',' || !p[length])) counted[f] = 1;
    }
    fail_at = at ? atol(at) : 0;
    fail_on = getenv("FAULT_ON") != NULL;
    torn = what && !strcmp(what, "torn");
    kind = !what ? EIO : torn || !strcmp(what, "short") ? SHORT : !strcmp(what, "eof") ? END : atoi(what);
    log_fd = append_to("FAULT_LOG");
    record_fd = append_to("FAULT_RECORD");
    under = getenv("FAULT_UNDER");
    if (getenv("FAULT_SECONDS")) alarm((unsigned)atoi(getenv("FAULT_SECONDS")));
}

static int is_under(const char *path) {
    for (const char *p = under; p && *p; p += *p == ':') {
        size_t length = strcspn(p, ":");
        if (!strncmp(path, p, length) && (!path[length] || path[length] == '/')) return 1;
        p += length;
    }
    return 0;
}

/* The path behind a descriptor; empty if there is none. A file without a name any more has " (deleted)" behind its last. */
static void path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, fd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
}

static void absolute(int dir, const char *path, char *out) {
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    path_of(dir, out);
    size_t length = strlen(out);
    if (path[0]) snprintf(out + length, PATH_MAX - length, "/%s", path);
}

/* What becomes of a call: PASS, SHORT, END, or an errno. */
static int decide(enum family family, const char *path) {
    if (!under || !counted[family] || !is_under(path)) return PASS;
    long number = atomic_fetch_add(&calls, 1) + 1;
    int fails = fail_at > 0 && (number == fail_at || (number > fail_at && (fail_on || torn)));
    if (log_fd >= 0) {
        char line[PATH_MAX + 32];
        int length = snprintf(line, sizeof line, "%s%s %s\n", fails ? "!" : "", families[family], path);
        syscall(SYS_write, log_fd, line, length);
    }
    if (!fails) return PASS;
    if (family == LOCK && fail_on) is_lockless = 1;
    return torn && number > fail_at ? ENOSPC : kind;
}

static int decide_fd(enum family family, int fd) {
    if (!under || !counted[family]) return PASS;
    char path[PATH_MAX];
    int before = errno;
    path_of(fd, path);
    errno = before;
    return decide(family, path);
}

static int decide_at(enum family family, int dir, const char *path) {
    if (!under || !counted[family] || !path) return PASS;
    char full[PATH_MAX];
    int before = errno;
    absolute(dir, path, full);
    errno = before;
    return decide(family, full);
}

/* For calls that cannot be short: those fail with EIO instead. */
#define FAIL_IF(decision)                                                                                              \
    do {                                                                                                               \
        int decided = (decision);                                                                                      \
        if (decided != PASS) {                                                                                         \
            errno = decided > 0 ? decided : EIO;                                                                       \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

/* ---- the record of changes ---- */

/* u8 what, u8 0 x 3, u32 length of path, u32 length of second path, u32 length of data, u64 offset, u64 inode; path, second
 * path, data. All in the byte order of this machine. */
struct head {
    uint8_t what, zero[3];
    uint32_t path, other, data;
    uint64_t offset, inode;
};

static void record(char what, const char *path, const char *other, uint64_t offset, uint64_t inode, const void *data,
                   size_t length) {
    struct head head = {(uint8_t)what, {0}, (uint32_t)strlen(path), (uint32_t)strlen(other), (uint32_t)length, offset, inode};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)other, head.other}, {(void *)data, length}};
    syscall(SYS_writev, record_fd, parts, 4);
}

static uint64_t inode_of(int fd) {
    struct stat there;
    return syscall(SYS_newfstatat, fd, "", &there, AT_EMPTY_PATH) ? 0 : there.st_ino;
}

/* Whether changes of `fd` are recorded; then `path` is where it lies and the mutex is held. */
static int recorded(int fd, char *path) {
    if (record_fd < 0) return 0;
    path_of(fd, path);
    if (!is_under(path)) return 0;
    pthread_mutex_lock(&recording);
    return 1;
}

static int recorded_at(int dir, const char *name, char *path) {
    if (record_fd < 0) return 0;
    absolute(dir, name, path);
    if (!is_under(path)) return 0;
    pthread_mutex_lock(&recording);
    return 1;
}

static void recorded_end(void) { pthread_mutex_unlock(&recording); }

/* ---- the calls ---- */

static int open_at(int dir, const char *path, int flags, mode_t mode) {
    FAIL_IF(decide_at(OPEN, dir, path));
    char full[PATH_MAX];
    int nameless = (flags & O_TMPFILE) == O_TMPFILE, changes = nameless || flags & (O_CREAT | O_TRUNC);
    int is = changes && recorded_at(dir, path, full);
    int was_there = is && !syscall(SYS_faccessat, AT_FDCWD, full, F_OK);
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    if (is) {
        /* Made in a folder that was there; its own path is what its descriptor says. */
        if (fd >= 0 && nameless) {
            path_of(fd, full);
            record('n', full, "", 0, inode_of(fd), "", 0);
        } else if (fd >= 0 && !was_there) record('c', full, "", 0, inode_of(fd), "", 0);
        else if (fd >= 0 && (flags & O_TRUNC)) record('t', full, "", 0, inode_of(fd), "", 0);
        recorded_end();
    }
    return fd;
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode = va_arg(more, mode_t);                                                                                   \
        va_end(more);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return open_at(dir, path, flags, mode); }

DIR *opendir(const char *path) {
    REAL(DIR *, opendir, const char *);
    int decided = decide_at(OPEN, AT_FDCWD, path);
    if (decided == PASS) return real_opendir(path);
    errno = decided > 0 ? decided : EIO;
    return NULL;
}

/* `bytes`: how many are asked for; halved where the call is to be short. */
static int decide_transfer(enum family family, int fd, size_t *bytes) {
    int decided = decide_fd(family, fd);
    if (decided == SHORT) *bytes = *bytes > 1 ? *bytes / 2 : *bytes;
    if (decided == END) *bytes = 0;
    if (decided <= 0) return 0;
    errno = decided;
    return -1;
}

ssize_t read(int fd, void *to, size_t bytes) {
    if (decide_transfer(READ, fd, &bytes)) return -1;
    return syscall(SYS_read, fd, to, bytes);
}

ssize_t pread64(int fd, void *to, size_t bytes, off64_t at) {
    if (decide_transfer(READ, fd, &bytes)) return -1;
    return syscall(SYS_pread64, fd, to, bytes, at);
}
ssize_t pread(int fd, void *to, size_t bytes, off_t at) { return pread64(fd, to, bytes, at); }

ssize_t readv(int fd, const struct iovec *parts, int n) {
    FAIL_IF(decide_fd(READ, fd));
    return syscall(SYS_readv, fd, parts, n);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t bytes, unsigned flags) {
    if (decide_transfer(READ, from, &bytes) || decide_transfer(WRITE, to, &bytes)) return -1;
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, bytes, flags);
}

static ssize_t write_at(int fd, const void *data, size_t bytes, off64_t at) {
    if (decide_transfer(WRITE, fd, &bytes)) return -1;
    char path[PATH_MAX];
    int is = recorded(fd, path);
    uint64_t begin = is && at < 0 ? (uint64_t)syscall(SYS_lseek, fd, 0, SEEK_CUR) : (uint64_t)at;
    ssize_t n = at < 0 ? syscall(SYS_write, fd, data, bytes) : syscall(SYS_pwrite64, fd, data, bytes, at);
    if (is) {
        if (n > 0) record('w', path, "", begin, inode_of(fd), data, (size_t)n);
        recorded_end();
    }
    return n;
}

ssize_t write(int fd, const void *data, size_t bytes) { return write_at(fd, data, bytes, -1); }
ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) { return write_at(fd, data, bytes, at); }
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) { return write_at(fd, data, bytes, at); }

ssize_t writev(int fd, const struct iovec *parts, int n) {
    /* One part at a time: fewer bytes than asked for is an answer that every caller must take. */
    for (int i = 0; i < n; i++)
        if (parts[i].iov_len > 0) return write_at(fd, parts[i].iov_base, parts[i].iov_len, -1);
    return 0;
}

static int sync_fd(int fd, long call, char what) {
    FAIL_IF(decide_fd(SYNC, fd));
    char path[PATH_MAX];
    int is = recorded(fd, path);
    int result = (int)syscall(call, fd);
    if (is) {
        if (!result) record(what, path, "", 0, inode_of(fd), "", 0);
        recorded_end();
    }
    return result;
}

int fsync(int fd) { return sync_fd(fd, SYS_fsync, 's'); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync, 's'); }
int syncfs(int fd) { return sync_fd(fd, SYS_syncfs, 'S'); }

static int move(int from_dir, const char *from, int to_dir, const char *to, unsigned flags, char what) {
    char behind[PATH_MAX];
    /* A file without a name is named by its descriptor, or by where /proc shows that. */
    int by_proc = flags & AT_SYMLINK_FOLLOW && !strncmp(from, "/proc/self/fd/", 14);
    if (by_proc) path_of(atoi(from + 14), behind);
    const char *known = by_proc ? behind : from;
    FAIL_IF(decide_at(RENAME, from_dir, known));
    char old[PATH_MAX], new[PATH_MAX];
    int is = recorded_at(from_dir, known, old);
    if (is) absolute(to_dir, to, new);
    int result = what == 'r' ? (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags)
                             : (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    if (is) {
        if (!result) record(what, old, new, 0, 0, "", 0);
        recorded_end();
    }
    return result;
}

int rename(const char *from, const char *to) { return move(AT_FDCWD, from, AT_FDCWD, to, 0, 'r'); }
int renameat(int a, const char *from, int b, const char *to) { return move(a, from, b, to, 0, 'r'); }
int renameat2(int a, const char *from, int b, const char *to, unsigned f) { return move(a, from, b, to, f, 'r'); }
int link(const char *from, const char *to) { return move(AT_FDCWD, from, AT_FDCWD, to, 0, 'l'); }
int linkat(int a, const char *from, int b, const char *to, int f) { return move(a, from, b, to, (unsigned)f, 'l'); }

static int remove_at(int dir, const char *path, int flags) {
    FAIL_IF(decide_at(UNLINK, dir, path));
    char full[PATH_MAX];
    int is = recorded_at(dir, path, full);
    int result = (int)syscall(SYS_unlinkat, dir, path, flags);
    if (is) {
        if (!result) record('u', full, "", 0, 0, "", 0);
        recorded_end();
    }
    return result;
}

int unlink(const char *path) { return remove_at(AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) { return remove_at(dir, path, flags); }
int rmdir(const char *path) { return remove_at(AT_FDCWD, path, AT_REMOVEDIR); }

int ftruncate64(int fd, off64_t length) {
    FAIL_IF(decide_fd(TRUNCATE, fd));
    char path[PATH_MAX];
    int is = recorded(fd, path);
    int result = (int)syscall(SYS_ftruncate, fd, length);
    if (is) {
        if (!result) record('t', path, "", (uint64_t)length, inode_of(fd), "", 0);
        recorded_end();
    }
    return result;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int mkdirat(int dir, const char *path, mode_t mode) {
    FAIL_IF(decide_at(MKDIR, dir, path));
    char full[PATH_MAX];
    int is = recorded_at(dir, path, full);
    int result = (int)syscall(SYS_mkdirat, dir, path, mode);
    if (is) {
        if (!result) record('m', full, "", 0, 0, "", 0);
        recorded_end();
    }
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* Every way to ask for the status of a path, or of what is open. */
#define STATUS(name, decision, result_of, ...)                                                                         \
    int name(__VA_ARGS__) {                                                                                            \
        FAIL_IF(decision);                                                                                             \
        return (int)(result_of);                                                                                       \
    }
STATUS(stat, decide_at(STAT, AT_FDCWD, p), syscall(SYS_newfstatat, AT_FDCWD, p, s, 0), const char *p, struct stat *s)
STATUS(stat64, decide_at(STAT, AT_FDCWD, p), syscall(SYS_newfstatat, AT_FDCWD, p, s, 0), const char *p, struct stat64 *s)
STATUS(lstat, decide_at(STAT, AT_FDCWD, p), syscall(SYS_newfstatat, AT_FDCWD, p, s, AT_SYMLINK_NOFOLLOW), const char *p,
       struct stat *s)
STATUS(lstat64, decide_at(STAT, AT_FDCWD, p), syscall(SYS_newfstatat, AT_FDCWD, p, s, AT_SYMLINK_NOFOLLOW),
       const char *p, struct stat64 *s)
STATUS(fstat, decide_fd(STAT, fd), syscall(SYS_newfstatat, fd, "", s, AT_EMPTY_PATH), int fd, struct stat *s)
STATUS(fstat64, decide_fd(STAT, fd), syscall(SYS_newfstatat, fd, "", s, AT_EMPTY_PATH), int fd, struct stat64 *s)
STATUS(fstatat, decide_at(STAT, dir, p), syscall(SYS_newfstatat, dir, p, s, f), int dir, const char *p, struct stat *s,
       int f)
STATUS(fstatat64, decide_at(STAT, dir, p), syscall(SYS_newfstatat, dir, p, s, f), int dir, const char *p,
       struct stat64 *s, int f)
STATUS(statx, decide_at(STAT, dir, p), syscall(SYS_statx, dir, p, f, m, s), int dir, const char *p, int f, unsigned m,
       struct statx *s)
STATUS(access, decide_at(STAT, AT_FDCWD, p), syscall(SYS_faccessat, AT_FDCWD, p, m), const char *p, int m)
STATUS(eaccess, decide_at(STAT, AT_FDCWD, p), syscall(SYS_faccessat2, AT_FDCWD, p, m, AT_EACCESS), const char *p, int m)

#define NEXT_ENTRY(name, type)                                                                                         \
    type *name(DIR *dir) {                                                                                             \
        REAL(type *, name, DIR *);                                                                                     \
        int decided = decide_fd(LIST, dirfd(dir));                                                                     \
        if (decided == PASS) return real_##name(dir);                                                                  \
        errno = decided > 0 ? decided : EIO;                                                                           \
        return NULL;                                                                                                   \
    }
NEXT_ENTRY(readdir, struct dirent)
NEXT_ENTRY(readdir64, struct dirent64)

static int control(int fd, int command, void *argument) {
    switch (command) {
    case F_GETLK: case F_SETLK: case F_SETLKW: case F_OFD_GETLK: case F_OFD_SETLK: case F_OFD_SETLKW:
        FAIL_IF(decide_fd(LOCK, fd));
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

#define ARGUMENT(last)                                                                                                 \
    va_list more;                                                                                                      \
    va_start(more, last);                                                                                              \
    void *argument = va_arg(more, void *);                                                                             \
    va_end(more);
int fcntl(int fd, int command, ...) { ARGUMENT(command) return control(fd, command, argument); }
int fcntl64(int fd, int command, ...) { ARGUMENT(command) return control(fd, command, argument); }

int flock(int fd, int operation) {
    FAIL_IF(decide_fd(LOCK, fd));
    return (int)syscall(SYS_flock, fd, operation);
}

/* SQLite's busy handler is all that sleeps here: other threads of litesnap wait on conditions. */
int nanosleep(const struct timespec *wanted, struct timespec *left) {
    struct timespec shorter = {0, (wanted->tv_sec * 1000000000 + wanted->tv_nsec) / 1000};
    return (int)syscall(SYS_nanosleep, is_lockless ? &shorter : wanted, left);
}

int close(int fd) {
    int decided = decide_fd(CLOSE, fd), result = (int)syscall(SYS_close, fd);
    if (decided == PASS || result) return result;
    errno = decided > 0 ? decided : EIO;
    return -1;
}

void *mmap64(void *near, size_t length, int protection, int flags, int fd, off64_t at) {
    int decided = fd < 0 ? PASS : decide_fd(MAP, fd);
    if (decided == PASS) return (void *)syscall(SYS_mmap, near, length, protection, flags, fd, at);
    errno = decided > 0 ? decided : EIO;
    return MAP_FAILED;
}
void *mmap(void *near, size_t length, int protection, int flags, int fd, off_t at) {
    return mmap64(near, length, protection, flags, fd, at);
}
