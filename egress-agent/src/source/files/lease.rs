//! Reading a file at a moment when nobody is writing it.
//!
//! A read lease is refused while the file is open for writing, and a writer that comes while
//! we hold one waits in `open` until we let go: between the two, the text is whole.
//! Minimum kernel: 2.4. Source: fcntl(2), "Leases".

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// `F_SETSIG` of include/uapi/asm-generic/fcntl.h, which all architectures we build for use;
/// the libc crate has it for few.
const F_SETSIG: libc::c_int = 10;

/// What came of reading a file.
#[derive(Debug)]
pub(super) enum Read {
    /// Its bytes.
    Bytes {
        /// The whole file.
        bytes: Vec<u8>,
        /// Of the file that was read.
        metadata: Box<Metadata>,
        /// Nobody was writing meanwhile. False where the file system has no leases or the
        /// file is another user's: then the caller must know from elsewhere.
        leased: bool,
    },
    /// Somebody has it open for writing.
    BeingWritten,
}

/// Reads a regular file unless somebody is writing it.
pub(super) fn read(path: &Path) -> io::Result<Read> {
    let mut file = match open(path) {
        // Somebody holds a write lease.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::BeingWritten),
        opened => opened?,
    };
    let leased = match lease(&file) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::BeingWritten),
        // EINVAL, EACCES, ENOLCK: no leases here, or not for us.
        Err(_) => false,
    };
    // Of now: between open and lease a writer may have come and gone.
    let metadata = file.metadata()?;
    let bytes = bytes(&mut file, &metadata)?;
    let metadata = Box::new(metadata);
    Ok(Read::Bytes {
        bytes,
        metadata,
        leased,
    })
    // Closing the file gives the lease back.
}

/// Reads a regular file whoever writes it.
pub(super) fn read_without(path: &Path) -> io::Result<Read> {
    let mut file = open(path)?;
    let metadata = file.metadata()?;
    let bytes = bytes(&mut file, &metadata)?;
    let metadata = Box::new(metadata);
    Ok(Read::Bytes {
        bytes,
        metadata,
        leased: false,
    })
}

fn open(path: &Path) -> io::Result<File> {
    // O_NONBLOCK: opening a FIFO must not wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

fn bytes(file: &mut File, metadata: &Metadata) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn lease(file: &File) -> io::Result<()> {
    // A writer that has to wait for us makes the kernel send a signal. SIGIO, the one sent
    // unless another is set, ends the process; SIGURG is ignored by default.
    fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG)?;
    fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK)
}

fn fcntl(fd: RawFd, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "neither rustix nor std has F_SETSIG and F_SETLEASE"
    )]
    // SAFETY: both commands take an int and touch no memory of ours; a bad descriptor is an
    // error, not undefined.
    let result = unsafe { libc::fcntl(fd, command, argument) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    fn text(path: &Path) -> Option<(String, bool)> {
        match read(path).unwrap() {
            Read::Bytes { bytes, leased, .. } => Some((String::from_utf8(bytes).unwrap(), leased)),
            Read::BeingWritten => None,
        }
    }

    #[test]
    fn a_file_that_somebody_writes_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(text(&path), None);
        drop(file);
        assert_eq!(text(&path), Some(("half".to_owned(), true)));
        let _reader = File::open(&path).unwrap();
        assert_eq!(text(&path), Some(("half".to_owned(), true)));
    }

    #[test]
    fn a_writer_waits_while_the_lease_is_held_and_the_signal_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "old").unwrap();
        let held = File::open(&path).unwrap();
        lease(&held).unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, "new").unwrap()
        });
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert!(!writer.is_finished());
        drop(held);
        writer.join().unwrap();
        assert_eq!(text(&path).unwrap().0, "new");
    }

    #[test]
    fn what_is_no_regular_file_is_an_error_and_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_err());
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        assert!(read(&fifo).is_err());
        let Err(error) = read(&dir.path().join("absent")) else {
            panic!("read something that is not there")
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
