//! What the kernel is told about the memory of another process: process_madvise(2).

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// A process, and not another one that was given its number since.
pub struct Process(OwnedFd);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Move it out of memory. Pages that are mapped by another process too are passed over.
    PageOut = libc::MADV_PAGEOUT as isize,
}

/// Of ranges in one call (the kernel's UIO_MAXIOV).
const MOST: usize = 1024;

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
        Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) })))
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

    /// How many bytes were advised about, which may be fewer than there are.
    fn advise_once(&self, advice: Advice, ranges: &[libc::iovec]) -> io::Result<usize> {
        let (fd, count) = (self.0.as_raw_fd(), ranges.len());
        // SAFETY: the ranges are those of another process, in which nothing is written; the array is ours.
        let done = unsafe { libc::syscall(libc::SYS_process_madvise, fd, ranges.as_ptr(), count, advice as i32, 0) };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
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
