//! What is done to the memory of another process: process_madvise(2), process_vm_readv(2), and writing to
//! `/proc/PID/mem`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;

use super::pagemap::PAGE;

/// A process, and not another one that was given its number since.
pub struct Process {
    pid: i32,
    fd: OwnedFd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Move it out of memory. Pages that are mapped by another process too are passed over.
    PageOut = libc::MADV_PAGEOUT as isize,
    /// Read it in. Comes back before the disk has.
    WillNeed = libc::MADV_WILLNEED as isize,
}

/// Of ranges in one call (the kernel's UIO_MAXIOV).
const MOST: usize = 1024;

impl From<Process> for OwnedFd {
    fn from(process: Process) -> Self {
        process.fd
    }
}

impl Process {
    /// `None` if it has ended.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        // SAFETY: pidfd_open(2) takes two numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
        }
        // SAFETY: the kernel has just given this descriptor to us.
        Ok(Some(Self { pid, fd: unsafe { OwnedFd::from_raw_fd(fd as i32) } }))
    }

    /// One that has ended needs none.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.send(signal as i32).map(drop)
    }

    /// Whether it has not ended.
    pub fn is_there(&self) -> io::Result<bool> {
        self.send(0)
    }

    /// `false` if it has ended.
    fn send(&self, signal: i32) -> io::Result<bool> {
        let (fd, none) = (self.fd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: pidfd_send_signal(2) takes numbers, and no details of the signal.
        match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) } {
            0 => Ok(true),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Advises about all of `ranges`. One that the kernel does not take, because it is locked for example, is passed
    /// over.
    pub fn advise(&self, advice: Advice, ranges: &[Range<u64>]) -> io::Result<()> {
        let mut left: Vec<libc::iovec> = ranges
            .iter()
            .map(|range| libc::iovec { iov_base: range.start as *mut _, iov_len: (range.end - range.start) as usize })
            .collect();
        // The last one first, so that what is done can be taken off.
        left.reverse();
        while !left.is_empty() {
            let piece: Vec<libc::iovec> = left.iter().rev().take(MOST).copied().collect();
            match self.advise_once(advice, &piece) {
                Ok(advised) if advised > 0 => take_off(&mut left, advised),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
                // Gone: what is asked for is so.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => return Err(error),
                Ok(_) | Err(_) => drop(left.pop()),
            }
        }
        Ok(())
    }

    /// Has every page in memory and mapped, as if the process had read a byte of it. Those that are gone are passed
    /// over.
    pub fn touch(&self, ranges: &[Range<u64>]) -> io::Result<()> {
        let pages = ranges.iter().flat_map(|range| range.clone().step_by(PAGE as usize));
        let bytes: Vec<_> = pages.map(|at| libc::iovec { iov_base: at as *mut _, iov_len: 1 }).collect();
        let mut into = [0_u8; MOST];
        let mut left = &bytes[..];
        while !left.is_empty() {
            let piece = &left[..left.len().min(MOST)];
            let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: piece.len() };
            // SAFETY: what is written to is `into`, which has room for a byte of each page.
            let read =
                unsafe { libc::process_vm_readv(self.pid, &local, 1, piece.as_ptr(), piece.len() as libc::c_ulong, 0) };
            match usize::try_from(read) {
                Ok(0) => left = &left[1..],
                Ok(read) => left = &left[read..],
                Err(_) => match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
                    error if error.raw_os_error() == Some(libc::EFAULT) => left = &left[1..],
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Gives a frozen process pages of its own, that are in memory alone, where it has them in common with its relatives
    /// or with swap: each is written to with what is there. Nothing of the container runs meanwhile that could write
    /// between the reading and the writing.
    pub fn part(&self, ranges: &[Range<u64>]) -> io::Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let memory = match File::options().read(true).write(true).open(format!("/proc/{}/mem", self.pid)) {
            Ok(memory) => memory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        // As long as it is there, its number is not another's, who may run and write.
        if !self.is_there()? {
            return Ok(());
        }
        for at in ranges.iter().flat_map(|range| range.clone().step_by(PAGE as usize)) {
            let mut byte = [0];
            // What cannot be read or written stays as it is.
            if memory.read_at(&mut byte, at).is_ok_and(|count| count == 1) {
                let _ = memory.write_at(&byte, at);
            }
        }
        Ok(())
    }

    /// How many bytes were advised about, which may be fewer than there are.
    fn advise_once(&self, advice: Advice, ranges: &[libc::iovec]) -> io::Result<usize> {
        let (fd, count) = (self.fd.as_raw_fd(), ranges.len());
        // SAFETY: the ranges are those of another process, in which nothing is written; the array is ours.
        let done = unsafe { libc::syscall(libc::SYS_process_madvise, fd, ranges.as_ptr(), count, advice as i32, 0) };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes `bytes` off the ranges at the end.
fn take_off(left: &mut Vec<libc::iovec>, mut bytes: usize) {
    while let Some(last) = left.last_mut() {
        if last.iov_len > bytes {
            last.iov_base = last.iov_base.wrapping_byte_add(bytes);
            last.iov_len -= bytes;
            return;
        }
        bytes -= last.iov_len;
        left.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(left: &[libc::iovec]) -> Vec<(usize, usize)> {
        left.iter().map(|range| (range.iov_base as usize, range.iov_len)).collect()
    }

    #[test]
    fn what_was_advised_about_is_taken_off_to_the_byte() {
        let range = |at: usize, len| libc::iovec { iov_base: at as *mut _, iov_len: len };
        let mut left = vec![range(300, 10), range(200, 20), range(100, 30)];
        take_off(&mut left, 35);
        assert_eq!(ranges(&left), [(300, 10), (205, 15)]);
        take_off(&mut left, 25);
        assert_eq!(ranges(&left), []);
    }

    #[test]
    fn ranges_that_the_kernel_refuses_do_not_keep_it_from_the_others() {
        let memory = vec![1_u8; 16 << 20];
        let page = 4096;
        let start = (memory.as_ptr() as u64).next_multiple_of(page);
        let end = start + (8 << 20);
        let us = Process::open(std::process::id() as i32).unwrap().unwrap();
        // Nothing is mapped at the first page, and more ranges than fit into one call follow.
        let pages = (start..end).step_by(page as usize);
        let asked: Vec<_> = std::iter::once(page).chain(pages).map(|at| at..at + page).collect();
        assert!(asked.len() > MOST);
        us.advise(Advice::PageOut, &asked).unwrap();
        assert!(memory.iter().step_by(4096).all(|&byte| byte == 1));
    }
}
