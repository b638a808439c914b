//! Files: what `std::fs` does, without blocking the thread.
#![allow(unsafe_code, reason = "calls the system")]

use super::check_on_thread;
use crate::check;
use gopark::fs::{self, DirBuilder, File, OpenOptions};
use gopark::sync::Cancel;
use gopark::{PollError, go, yield_now};
use gopark_tests::sockets::{pattern, poll_error};
use gopark_tests::{Dice, join, until};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt, DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// A directory that is removed at the end.
pub(super) struct Dir(pub(super) PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, SeqCst);
        let name = format!("gopark-fs-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Dir(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn assert_cancelled<T: std::fmt::Debug>(result: io::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(poll_error(&error), Some(PollError::Cancelled), "{error:?}");
}

fn functions_of_paths() {
    let dir = Dir::new();
    let (a, b) = (dir.path("a"), dir.path("b"));
    fs::write(&a, "some text").unwrap();
    assert_eq!(fs::read(&a).unwrap(), b"some text");
    assert_eq!(fs::read_to_string(&a).unwrap(), "some text");
    assert_eq!(fs::copy(&a, &b).unwrap(), 9);
    fs::set_permissions(&b, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(&b).unwrap().mode() & 0o777, 0o640);
    fs::rename(&b, dir.path("c")).unwrap();
    assert!(!fs::exists(&b).unwrap());
    assert_eq!(fs::metadata(&b).unwrap_err().kind(), ErrorKind::NotFound);
    fs::hard_link(&a, &b).unwrap();
    assert_eq!(fs::metadata(&b).unwrap().nlink(), 2);
    fs::symlink("a", dir.path("link")).unwrap();
    assert_eq!(fs::read_link(dir.path("link")).unwrap(), PathBuf::from("a"));
    assert_eq!(
        fs::canonicalize(dir.path("link")).unwrap(),
        std::fs::canonicalize(&a).unwrap()
    );
    assert!(fs::symlink_metadata(dir.path("link")).unwrap().is_symlink());
    fs::create_dir(dir.path("d")).unwrap();
    assert!(fs::create_dir(dir.path("d")).is_err());
    fs::create_dir_all(dir.path("d/e/f")).unwrap();
    DirBuilder::new()
        .mode(0o700)
        .create(dir.path("d/g"))
        .unwrap();
    assert_eq!(fs::metadata(dir.path("d/g")).unwrap().mode() & 0o777, 0o700);
    fs::remove_dir(dir.path("d/g")).unwrap();
    assert!(fs::remove_dir(dir.path("d")).is_err());
    fs::remove_dir_all(dir.path("d")).unwrap();
    fs::remove_file(dir.path("link")).unwrap();
    let names: BTreeSet<_> = fs::read_dir(&dir.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, ["a", "b", "c"].map(String::from).into());
}

#[test]
fn functions_of_paths_do_what_those_of_std_do() {
    check(functions_of_paths);
    check_on_thread(functions_of_paths);
}

#[test]
fn a_long_directory_is_listed_whole() {
    check(|| {
        let dir = Dir::new();
        let names: BTreeSet<_> = (0..1200).map(|n| format!("file-{n}")).collect();
        for name in &names {
            std::fs::write(dir.path(name), name).unwrap();
        }
        let mut listed = BTreeSet::new();
        for entry in fs::read_dir(&dir.0).unwrap() {
            let entry = entry.unwrap();
            assert!(entry.file_type().unwrap().is_file());
            assert!(entry.path().starts_with(&dir.0) && entry.ino() != 0);
            listed.insert(entry.file_name().into_string().unwrap());
        }
        assert_eq!(listed, names);
        let first = fs::read_dir(&dir.0).unwrap().next().unwrap().unwrap();
        assert_eq!(
            first.metadata().unwrap().len() as usize,
            first.file_name().len()
        );
    });
}

#[test]
fn random_operations_have_the_results_of_std() {
    fn file(path: &PathBuf) -> std::fs::File {
        let mut options = std::fs::OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .open(path)
            .unwrap()
    }
    fn step<F: Read + Write + Seek + FileExt>(
        file: &mut F,
        dice: &Dice,
    ) -> (Result<u64, ErrorKind>, Vec<u8>) {
        let (what, len, at) = (dice.below(8), dice.below(9000) as usize, dice.below(30_000));
        let mut buffer = vec![0; len];
        let data = vec![at as u8; len];
        let result = match what {
            0 | 1 => file.read_exact(&mut buffer).map(|()| 0),
            2 => file.read_exact_at(&mut buffer, at).map(|()| 0),
            3 => file.write_all(&data).map(|()| 0),
            4 => file.write_all_at(&data, at).map(|()| 0),
            5 => file.seek(SeekFrom::Start(at)),
            6 => file.seek(SeekFrom::Current(at as i64 - 15_000)),
            _ if at < 3_000 => {
                buffer.clear();
                file.read_to_end(&mut buffer).map(|n| n as u64)
            }
            _ => file.seek(SeekFrom::End(-(at as i64) / 2)),
        };
        // What a read that fails leaves in the buffer is not specified.
        let buffer = if result.is_ok() { buffer } else { Vec::new() };
        (result.map_err(|error| error.kind()), buffer)
    }
    check(|| {
        for seed in 0..20 {
            let dir = Dir::new();
            let (dice, same) = (Dice::new(seed), Dice::new(seed));
            let mut ours = File::from(file(&dir.path("ours")));
            let mut theirs = file(&dir.path("theirs"));
            for number in 0..100 {
                let (found, expected) = (step(&mut ours, &dice), step(&mut theirs, &same));
                assert!(found == expected, "seed {seed}, operation {number}");
            }
            assert_eq!(
                ours.metadata().unwrap().len(),
                theirs.metadata().unwrap().len()
            );
            assert_eq!(
                ours.stream_position().unwrap(),
                theirs.stream_position().unwrap()
            );
        }
    });
}

#[test]
fn readers_of_one_file_share_its_position() {
    check(|| {
        let dir = Dir::new();
        let data = pattern(300_000);
        std::fs::write(dir.path("a"), &data).unwrap();
        let file = Arc::new(File::open(dir.path("a")).unwrap());
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let file = file.clone();
                go(move || {
                    let mut total = 0;
                    loop {
                        match (&*file).read(&mut [0; 777]).unwrap() {
                            0 => return total,
                            n => total += n,
                        }
                        yield_now();
                    }
                })
            })
            .collect();
        assert_eq!(readers.into_iter().map(join).sum::<usize>(), data.len());
    });
}

#[test]
fn a_file_has_what_a_file_of_std_has() {
    check(|| {
        let dir = Dir::new();
        let path = dir.path("a");
        let mut file = File::create_new(&path).unwrap();
        assert_eq!(
            File::create_new(&path).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        file.write_all(b"0123456789").unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        file.set_len(4).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (4, 0o600));
        assert_eq!(metadata.modified().unwrap(), std::time::UNIX_EPOCH);
        file.rewind().unwrap();
        let mut other = file.try_clone().unwrap();
        assert_ne!(file.as_raw_fd(), other.as_raw_fd());
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(
            (text.as_str(), file.stream_position().unwrap()),
            ("0123", 4)
        );
        let mut appending = OpenOptions::new().append(true).open(&path).unwrap();
        appending.write_all(b"45").unwrap();
        let of_std = std::fs::File::from(appending);
        assert_eq!(of_std.metadata().unwrap().len(), 6);
        let owned = OwnedFd::from(File::from(of_std));
        assert_eq!(File::from(owned).metadata().unwrap().len(), 6);
        let mode = OpenOptions::new()
            .write(true)
            .create(true)
            .mode(0o611)
            .open(dir.path("mode"))
            .unwrap();
        assert_eq!(mode.metadata().unwrap().mode() & 0o700, 0o600);
        let refused = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&path);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
        // An error of the system, also where the page cache was asked first.
        let directory = File::open(&dir.0).unwrap();
        assert_eq!(
            directory.read_at(&mut [0], 0).unwrap_err().raw_os_error(),
            Some(libc::EISDIR)
        );
    });
}

fn make_fifo(dir: &Dir) -> PathBuf {
    let path = dir.path("fifo");
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    path
}

#[test]
fn a_fifo_keeps_a_thread_of_the_pool_only() {
    check(|| {
        let dir = Dir::new();
        let fifo = make_fifo(&dir);
        let reader = {
            let fifo = fifo.clone();
            go(move || {
                let mut file = File::open(fifo)?;
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                Ok::<_, io::Error>(text)
            })
        };
        (0..10).for_each(|_| yield_now());
        let mut writer = OpenOptions::new().write(true).open(&fifo).unwrap();
        for word in ["one ", "two"] {
            writer.write_all(word.as_bytes()).unwrap();
            yield_now();
        }
        drop(writer);
        assert_eq!(join(reader).unwrap(), "one two");
    });
}

#[test]
fn a_cancel_leaves_an_open_behind() {
    check(|| {
        let dir = Dir::new();
        let fifo = make_fifo(&dir);
        let cancel = Cancel::new();
        let reader = {
            let (fifo, cancel) = (fifo.clone(), cancel.clone());
            go(move || cancel.run(|| File::open(fifo)))
        };
        (0..10).for_each(|_| yield_now());
        cancel.cancel();
        assert_cancelled(join(reader));
        // The work still waits, or was never begun: its thread gets its other end.
        let writer = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&fifo);
        assert!(writer.map_or_else(|error| error.raw_os_error() == Some(libc::ENXIO), |_| true));
    });
}

#[test]
fn a_cancelled_goroutine_does_nothing_with_files() {
    check(|| {
        let dir = Dir::new();
        for n in 0..1000 {
            std::fs::write(dir.path(&n.to_string()), "text").unwrap();
        }
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(dir.path("7"))
            .unwrap();
        let mut entries = fs::read_dir(&dir.0).unwrap();
        let mut listed = 0;
        let cancel = Cancel::new();
        cancel.cancel();
        cancel.run(|| {
            assert_cancelled(file.read(&mut [0]));
            assert_cancelled(file.read_at(&mut [0], 0));
            assert_cancelled(file.write(b"x"));
            assert_cancelled(file.metadata());
            assert_cancelled(fs::read(dir.path("7")));
            assert_cancelled(fs::write(dir.path("7"), "other"));
            assert_cancelled(File::open(dir.path("7")));
            // What was fetched before comes, then the error, each time.
            while entries.next().unwrap().is_ok() {
                listed += 1;
            }
            assert_cancelled(entries.next().unwrap());
        });
        assert!(listed > 0);
        assert_eq!(listed + entries.map(Result::unwrap).count(), 1000);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
    });
}

#[test]
fn a_read_from_the_page_cache_hands_nothing_over() {
    check(|| {
        let dir = Dir::new();
        std::fs::write(dir.path("a"), pattern(100_000)).unwrap();
        let file = File::open(dir.path("a")).unwrap();
        let mut vector = [0; 8];
        let vector = libc::iovec {
            iov_base: vector.as_mut_ptr().cast(),
            iov_len: vector.len(),
        };
        // SAFETY: the vector names the array.
        let supported =
            unsafe { libc::preadv2(file.as_raw_fd(), &vector, 1, 0, libc::RWF_NOWAIT) } == 8;
        if !supported {
            return;
        }
        // A hand-over gives the thread to the neighbour. Reads do so when the allowance is used up.
        let turns = std::rc::Rc::new(std::cell::Cell::new(0));
        let stop = std::rc::Rc::new(std::cell::Cell::new(false));
        let neighbour = {
            let (turns, stop) = (turns.clone(), stop.clone());
            gopark::go_local(move || {
                while !stop.get() {
                    turns.set(turns.get() + 1);
                    yield_now();
                }
            })
        };
        until("the neighbour runs", || turns.get() > 0);
        let before = turns.get();
        let mut buffer = [0; 1000];
        for n in 0..50 {
            file.read_exact_at(&mut buffer, n * 1000).unwrap();
            (&file).read_exact(&mut buffer).unwrap();
        }
        assert!(turns.get() - before < 50, "{} turns", turns.get() - before);
        stop.set(true);
        join(neighbour);
    });
}
