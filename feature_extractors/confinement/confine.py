"""What a process that reads hostile bytes gives up for good: privileges, programs, network, files, and outliving us.

On Linux by seccomp (a filter of system calls) and Landlock (access to files and ports), elsewhere by resource limits
alone. What the kernel does not have is left out and told, never fatal: each measure is worth having by itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import stat
import struct
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOSYS, EPERM
from typing import Any, Final

_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_SET_SECCOMP: Final = 22
_SET_NO_NEW_PRIVS: Final = 38
_FILTER: Final = 2  # SECCOMP_MODE_FILTER
_SET_MODE_FILTER: Final = 1  # linux/seccomp.h: operation and flag of seccomp(2)
_ALL_THREADS: Final = 1
_LANDLOCK_CREATE: Final = 444  # the same number on every architecture, as all that came after 424
_LANDLOCK_RESTRICT: Final = 446
_LANDLOCK_VERSION: Final = 1

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL: Final = 0x80000000

# Offsets in struct seccomp_data; only the lower half of an argument is looked at where its flags are.
_NR: Final = 0
_ARCH: Final = 4
_ARGS: Final = 16

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JGE
_ANY_BIT: Final = 0x45  # BPF_JSET
_RETURN: Final = 0x06  # BPF_RET

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0x400000  # __O_TMPFILE
_THREAD: Final = 0x00010000  # CLONE_THREAD
_TERMINAL: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: put words into a terminal's input
_FIRST_UNKNOWN_SYSCALL: Final = 452  # what came later is not there for us: C libraries do without it


@dataclass(frozen=True, slots=True)
class _Machine:
    """An architecture's number in the kernel, and its system calls' by name."""

    audit: int
    calls: dict[str, int]


# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
_X86_64: Final = _Machine(
    0xC000003E,
    {
        "open": 2, "openat": 257, "openat2": 437, "creat": 85, "open_by_handle_at": 304,
        "execve": 59, "execveat": 322, "fork": 57, "vfork": 58, "clone": 56, "clone3": 435,
        "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
        "pidfd_send_signal": 424, "pidfd_getfd": 438, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "process_madvise": 440, "kcmp": 312,
        "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288,
        "unlink": 87, "unlinkat": 263, "rename": 82, "renameat": 264, "renameat2": 316, "mkdir": 83, "mkdirat": 258,
        "rmdir": 84, "link": 86, "linkat": 265, "symlink": 88, "symlinkat": 266, "mknod": 133, "mknodat": 259,
        "chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260,
        "truncate": 76, "ftruncate": 77, "fallocate": 285, "utime": 132, "utimes": 235, "utimensat": 280,
        "futimesat": 261, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197,
        "lremovexattr": 198, "fremovexattr": 199, "memfd_create": 319, "memfd_secret": 447,
        "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "move_mount": 429,
        "open_tree": 428, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "io_setup": 206, "io_submit": 209,
        "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250,
        "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
        "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163, "quotactl": 179, "quotactl_fd": 443,
        "sethostname": 170, "setdomainname": 171, "settimeofday": 164, "clock_settime": 227, "adjtimex": 159,
        "clock_adjtime": 305, "iopl": 172, "ioperm": 173, "syslog": 103, "vhangup": 153, "nfsservctl": 180,
        "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setgroups": 116, "setresuid": 117,
        "setresgid": 119, "setfsuid": 122, "setfsgid": 123, "capset": 126,
        "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "msgget": 68, "mq_open": 240, "mq_unlink": 241,
        "name_to_handle_at": 303, "fanotify_init": 300, "ioctl": 16,
        "setrlimit": 160, "prlimit64": 302,
    },
)  # fmt: skip
_AARCH64: Final = _Machine(
    0xC00000B7,
    {
        "openat": 56, "openat2": 437, "open_by_handle_at": 265,
        "execve": 221, "execveat": 281, "clone": 220, "clone3": 435,
        "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
        "pidfd_send_signal": 424, "pidfd_getfd": 438, "ptrace": 117, "process_vm_readv": 270,
        "process_vm_writev": 271, "process_madvise": 440, "kcmp": 272,
        "socket": 198, "socketpair": 199, "connect": 203, "bind": 200, "listen": 201, "accept": 202, "accept4": 242,
        "unlinkat": 35, "renameat": 38, "renameat2": 276, "mkdirat": 34, "linkat": 37, "symlinkat": 36, "mknodat": 33,
        "fchmod": 52, "fchmodat": 53, "fchown": 55, "fchownat": 54, "truncate": 45, "ftruncate": 46, "fallocate": 47,
        "utimensat": 88, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15,
        "fremovexattr": 16, "memfd_create": 279, "memfd_secret": 447,
        "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "move_mount": 429,
        "open_tree": 428, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "io_setup": 0, "io_submit": 2,
        "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "add_key": 217, "request_key": 218, "keyctl": 219,
        "init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load": 104, "kexec_file_load": 294,
        "reboot": 142, "swapon": 224, "swapoff": 225, "acct": 89, "quotactl": 60, "quotactl_fd": 443,
        "sethostname": 161, "setdomainname": 162, "settimeofday": 170, "clock_settime": 112, "adjtimex": 171,
        "clock_adjtime": 266, "syslog": 116, "vhangup": 58, "nfsservctl": 42,
        "setuid": 146, "setgid": 144, "setreuid": 145, "setregid": 143, "setgroups": 159, "setresuid": 147,
        "setresgid": 149, "setfsuid": 151, "setfsgid": 152, "capset": 91,
        "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "msgget": 186, "mq_open": 180, "mq_unlink": 181,
        "name_to_handle_at": 264, "fanotify_init": 262, "ioctl": 29,
        "setrlimit": 164, "prlimit64": 261,
    },
)  # fmt: skip
_MACHINES: Final = {"x86_64": _X86_64, "aarch64": _AARCH64}
_SECCOMP_CALL: Final = {"x86_64": 317, "aarch64": 277}

# Denied in part only, by their arguments.
_IN_PART: Final = frozenset({"open", "openat", "clone", "kill", "tgkill", "ioctl", "prlimit64"})
# their flags are out of a filter's reach; the older calls serve
_ABSENT: Final = frozenset({"openat2", "clone3"})
# Left to another program: its start, and giving up a user's privileges, with which tshark begins.
_TO_START: Final = frozenset({
    "execve", "execveat", "setuid", "setgid", "setreuid", "setregid", "setgroups", "setresuid", "setresgid",
    "setfsuid", "setfsgid",
})  # fmt: skip

# linux/landlock.h: rights by the version that has them. Reading is left: what is read can go nowhere.
_FILE_RIGHTS: Final = {
    1: 0x1FF3 & ~0b1100,
    2: 1 << 13,
    3: 1 << 14,
}  # 1: EXECUTE to MAKE_SYM, but READ_FILE, READ_DIR
_EXECUTE_RIGHT: Final = 1
_NET_RIGHTS: Final = 0b11  # from version 4: bind, connect
_SCOPES: Final = 0b11  # from version 6: abstract sockets, signals

_MEBIBYTE: Final = 1024 * 1024
_MAX_STDERR_BYTES: Final = _MEBIBYTE  # bytes more in a file that stderr is

_libc: Any = None


@dataclass(frozen=True, slots=True)
class Confinement:
    """Which parts of the confinement are in force."""

    privileges: bool = False  # none are gained any more
    seccomp: bool = False
    landlock: int = 0  # its version, 0 where there is none

    def __str__(self) -> str:
        parts = ["no new privileges"] if self.privileges else []
        parts += ["seccomp"] if self.seccomp else []
        parts += [f"Landlock {self.landlock}"] if self.landlock else []
        return ", ".join([*parts, "resource limits"])

    @property
    def whole(self) -> bool:
        return self.privileges and self.seccomp and self.landlock > 0


def confine(*, programs: bool = False) -> Confinement:
    """The confinement of this thread (seccomp: process) and all that it starts, from now on (Landlock, seccomp-bpf).

    It gives up gaining privileges, running programs (unless `programs`), starting processes, the network, signals to
    others, and changing anything in any file system.

    Files can still be read, and what is open be written to. It cannot be taken back.
    """
    if not sys.platform.startswith("linux"):
        return Confinement()
    privileges = _prctl(_SET_NO_NEW_PRIVS, 1)
    landlock = _landlock(programs)
    return Confinement(privileges, _seccomp(programs) if privileges else False, landlock if privileges else 0)


def limit(
    *, memory: int | None = None, seconds: int | None = None, told: int = 0, descriptors: int = 64
) -> None:
    """Sets resource limits (setrlimit): no core dump, no file beyond `told` bytes, few `descriptors` beside those open.

    `memory` in bytes of address space, `seconds` of processor time.
    """
    highest = max((int(fd) for fd in _descriptors()), default=2)
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: told,
        resource.RLIMIT_NOFILE: highest + descriptors,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if memory is not None:
        wanted[resource.RLIMIT_AS] = memory
    if seconds is not None:
        wanted[resource.RLIMIT_CPU] = seconds
    for what, most in wanted.items():
        hard = resource.getrlimit(what)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(what, (least, least))


def lock_in(pipe: int, descriptors: int = 64) -> Confinement:
    """Confines this process, which from now on only reads what is open and writes to `pipe`; stderr is left for bugs.

    Whatever else is open for writing is closed, standard output is nowhere; so many `descriptors` more may be opened.
    """
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    for name in _descriptors():
        fd = int(name)
        if fd in (0, 2, pipe):
            continue
        with suppress(OSError):
            if _writable(fd):
                os.close(fd)
    told = os.fstat(2)
    more = told.st_size if stat.S_ISREG(told.st_mode) else 0
    limit(told=more + _MAX_STDERR_BYTES, descriptors=descriptors)
    return confine()


def end_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when the process `parent`, or its thread that started this one, ends."""
    if not (sys.platform.startswith("linux") and _prctl(_SET_PDEATHSIG, signal.SIGKILL)):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def ready() -> None:
    """Loads the libraries that a process needs to confine itself between fork and exec."""
    _system()


def probe() -> Confinement:
    """The confinement that this kernel provides, found out by a child process that confines itself."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            done = confine()
            os.write(writing, bytes((done.privileges, done.seccomp, min(done.landlock, 255))))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return Confinement(bool(said[0]), bool(said[1]), said[2]) if len(said) == 3 else Confinement()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _descriptors() -> list[str]:
    try:
        return os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")
    except OSError:
        return []


def _writable(fd: int) -> bool:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _system() -> Any:
    global _libc  # noqa: PLW0603  # loaded once, and before a fork
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.syscall.restype = ctypes.c_long
    return _libc


def _prctl(option: int, *arguments: int) -> bool:
    padded = [*arguments, 0, 0, 0, 0][:4]
    return bool(_system().prctl(option, *(ctypes.c_ulong(a) for a in padded)) == 0)


def _seccomp(programs: bool) -> bool:
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.maxsize < 2**32:
        return False
    program = _program(machine, programs, os.getpid())
    instructions = ctypes.create_string_buffer(program, len(program))

    class _Fprog(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    to_install = _Fprog(len(program) // 8, ctypes.addressof(instructions))
    done = _system().syscall(
        ctypes.c_long(_SECCOMP_CALL[platform.machine()]),
        ctypes.c_long(_SET_MODE_FILTER),
        ctypes.c_long(_ALL_THREADS),
        ctypes.byref(to_install),
    )
    return bool(done == 0) or bool(
        _system().prctl(_SET_SECCOMP, ctypes.c_ulong(_FILTER), ctypes.byref(to_install)) == 0
    )


def _landlock(programs: bool) -> int:
    version = int(
        _system().syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    )
    if version < 1:
        return 0
    files = sum(rights for since, rights in _FILE_RIGHTS.items() if version >= since)
    if programs:
        files &= ~_EXECUTE_RIGHT
    rules = struct.pack(
        "=QQQ", files, _NET_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0
    )  # fmt: skip
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = ctypes.create_string_buffer(rules, len(rules))
    ruleset = int(
        _system().syscall(
            ctypes.c_long(_LANDLOCK_CREATE), attributes, ctypes.c_size_t(size), ctypes.c_uint(0)
        )
    )
    if ruleset < 0:
        return 0
    try:
        # Without rules: nothing of what the ruleset names is allowed anywhere.
        done = _system().syscall(ctypes.c_long(_LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0))
        return version if done == 0 else 0
    finally:
        os.close(ruleset)


def _program(machine: _Machine, programs: bool, own: int) -> bytes:
    """The filter: a list of tests that each let the next one follow, allowing what none refuses."""
    calls = machine.calls
    code = [
        _step(_LOAD, _ARCH), _step(_EQUAL, machine.audit, 1, 0), _step(_RETURN, _KILL),
        _step(_LOAD, _NR),
        # Also the 32-bit numbers on 64 bits, which begin at 2^30.
        _step(_AT_LEAST, _FIRST_UNKNOWN_SYSCALL, 0, 1), _step(_RETURN, _ERRNO | ENOSYS),
    ]  # fmt: skip
    for name, number in calls.items():
        if name in _IN_PART or (programs and name in _TO_START):
            continue
        refusal = ENOSYS if name in _ABSENT else EPERM
        code += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | refusal)]
    for name, argument in (("open", 1), ("openat", 2)):
        if name in calls:
            code += _guarded(calls[name], argument, [(_ANY_BIT, _WRITES, True)])
    code += _guarded(calls["clone"], 0, [(_ANY_BIT, _THREAD, False)])
    if not programs:  # it gets its own number with the program's process
        code += _guarded(calls["kill"], 0, [(_EQUAL, own, False)])
        code += _guarded(calls["tgkill"], 0, [(_EQUAL, own, False)])
    code += _guarded(calls["prlimit64"], 2, [(_EQUAL, 0, False)])  # limits are read, not changed
    for request in _TERMINAL:
        code += _guarded(calls["ioctl"], 1, [(_EQUAL, request, True)])
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _guarded(number: int, argument: int, tests: list[tuple[int, int, bool]]) -> list[bytes]:
    """Refuses a call whose argument (its lower half) passes, or does not pass, a test."""
    code = []
    for kind, value, refused in tests:
        code += [
            _step(_EQUAL, number, 0, 4),
            _step(_LOAD, _ARGS + 8 * argument),
            _step(kind, value, *((0, 1) if refused else (1, 0))),
            _step(_RETURN, _ERRNO | EPERM),
            _step(_LOAD, _NR),
        ]
    return code


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
