//! Where lines go: standard output, or a file that is put aside when it is full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};

use super::record::FlowRecord;
use super::{Loss, Settings, Tally, Target};

/// Intervals that wait for a slow disk. At the default rate and interval one is 10,000 lines.
const QUEUE: usize = 4;

/// An open target.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout,
    File(Rotated),
}

/// A file with a limit. What is put aside is called FILE.1, then FILE.2, the highest the oldest.
#[derive(Debug)]
pub(super) struct Rotated {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    size: u64,
    kept: u32,
}

impl Sink {
    pub(super) fn open(settings: &Settings) -> io::Result<Self> {
        match &settings.target {
            Target::Stdout => Ok(Self::Stdout),
            Target::File(path) => Rotated::open(path, settings.size, settings.kept).map(Self::File),
        }
    }

    /// Writes lines; how many were written, and what went wrong with the next.
    fn write(&mut self, lines: &[FlowRecord]) -> (u64, io::Result<()>) {
        let mut done = 0;
        for line in lines {
            let written =
                serde_json::to_vec(line)
                    .map_err(io::Error::from)
                    .and_then(|mut bytes| {
                        bytes.push(b'\n');
                        match self {
                            Self::Stdout => io::stdout().write_all(&bytes),
                            Self::File(file) => file.write(&bytes),
                        }
                    });
            if let Err(error) = written {
                return (done, Err(error));
            }
            done += 1;
        }
        let flushed = match self {
            Self::Stdout => io::stdout().flush(),
            Self::File(file) => file.file.flush(),
        };
        (done, flushed)
    }
}

impl Rotated {
    fn open(path: &Path, size: u64, kept: u32) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let file = append(path)?;
        let written = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
            written,
            size,
            kept,
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.written > 0 && self.written.saturating_add(length) > self.size {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.written = self.written.saturating_add(length);
        Ok(())
    }

    /// The names move up by one, the last one goes, and a new file begins.
    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        for number in (1..self.kept).rev() {
            absent_is_fine(fs::rename(
                self.aside(number),
                self.aside(number.saturating_add(1)),
            ))?;
        }
        if self.kept == 0 {
            absent_is_fine(fs::remove_file(&self.path))?;
        } else {
            absent_is_fine(fs::rename(&self.path, self.aside(1)))?;
        }
        self.file = BufWriter::new(append(&self.path)?);
        self.written = 0;
        Ok(())
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A thread of its own: a slow disk must not hold up whoever empties the kernel's ring.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<SyncSender<Vec<FlowRecord>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(mut sink: Sink, tally: Tally) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel::<Vec<FlowRecord>>(QUEUE);
        let thread = thread::Builder::new()
            .name("flow-log".to_owned())
            .spawn(move || {
                let mut failing = false;
                for lines in lines {
                    let (written, result) = sink.write(&lines);
                    tally.wrote(written);
                    let all = u64::try_from(lines.len()).unwrap_or(u64::MAX);
                    tally.lose(Loss::Write, all.saturating_sub(written));
                    match result {
                        // Once, not for every interval.
                        Err(error) if !failing => {
                            tracing::warn!(%error, "the flow log cannot be written");
                            failing = true;
                        }
                        Err(_) => {}
                        Ok(()) => failing = false,
                    }
                }
            })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Gives the lines back when too many wait.
    pub(super) fn write(&self, lines: Vec<FlowRecord>) -> Result<(), Vec<FlowRecord>> {
        match &self.queue {
            Some(queue) => queue.try_send(lines).map_err(|error| match error {
                TrySendError::Full(lines) | TrySendError::Disconnected(lines) => lines,
            }),
            None => Err(lines),
        }
    }

    /// Waits until everything is written.
    pub(super) fn finish(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the flow log panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/flows.log");
        let mut file = Rotated::open(&path, 20, 2).unwrap();
        for number in 0..9 {
            file.write(format!("line {number} ..\n").as_bytes())
                .unwrap();
        }
        file.file.flush().unwrap();
        let aside = |number| text(&file.aside(number));
        assert_eq!(
            (text(&path), aside(1), aside(2), aside(3)),
            (
                "line 8 ..\n".to_owned(),
                "line 6 ..\nline 7 ..\n".to_owned(),
                "line 4 ..\nline 5 ..\n".to_owned(),
                String::new()
            )
        );
    }

    #[test]
    fn a_file_is_continued_and_no_line_is_broken_by_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.log");
        fs::write(&path, "before\n").unwrap();
        let mut file = Rotated::open(&path, 10, 0).unwrap();
        file.write(b"a line that is longer than the limit\n")
            .unwrap();
        file.file.flush().unwrap();
        assert_eq!(text(&path), "a line that is longer than the limit\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
