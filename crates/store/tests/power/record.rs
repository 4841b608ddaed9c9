//! Records what a process does to the files of one directory, in order, with `strace`.
//!
//! It follows writes, lengths, names, syncs, and the acknowledgements `ack N` on the process's
//! standard output. It does not follow `-shm`, which SQLite maps into memory and makes anew after a
//! crash, and what else is done to a file of the directory in a way that it does not know (a rename, a
//! shared mapping, a vectored write) ends the recording with a panic.
//!
//! Invariant: a recording that is returned is whole. [`Recording::files_at_end`] is what stands in
//! the directory.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The calls that are recorded or refused. `?`: those that not every processor's Linux has.
const CALLS: &str = "trace=openat,?open,?creat,write,pwrite64,writev,pwritev,?pwritev2,truncate,\
    ftruncate,fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,msync,?unlink,unlinkat,?rename,\
    ?renameat,renameat2,?link,linkat,copy_file_range,sendfile,mmap";

/// Something that the process did.
#[derive(Debug)]
pub(crate) enum What {
    Write {
        file: usize,
        at: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: usize,
        len: usize,
    },
    /// A new file under a name that was free.
    Create {
        name: String,
        file: usize,
    },
    Unlink {
        name: String,
    },
    SyncFile(usize),
    SyncDirectory,
    Ack(u64),
    /// A call that failed.
    Nothing,
}

/// When it began and when it was done. Each beginning and each end is a moment of its own.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) what: What,
    pub(crate) begun: usize,
    pub(crate) ended: usize,
}

/// All of it, in the order of the beginnings.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) ops: Vec<Op>,
    /// The name of each file. One that is made again under the same name is another file.
    pub(crate) files: Vec<String>,
    /// The moment after the last.
    pub(crate) end: usize,
    at_end: BTreeMap<String, usize>,
}

impl Recording {
    /// Runs `command` and records what it does to `directory`, which is empty at first.
    pub(crate) fn of(command: &Command, directory: &Path) -> Recording {
        let mut recorder = Recorder {
            directory: directory.canonicalize().unwrap(),
            ops: Vec::new(),
            files: Vec::new(),
            names: BTreeMap::new(),
            under_way: HashMap::new(),
            now: 0,
        };
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-y", "-xx", "-qq", "-s", "1000000", "-e", "signal=none", "-e", CALLS])
            .args(["-o", "/dev/stderr"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        for (key, value) in command.get_envs() {
            strace.env(key, value.unwrap());
        }
        let mut strace = strace.spawn().expect("strace is installed");
        let mut log = BufReader::with_capacity(1 << 20, strace.stderr.take().unwrap());
        let mut line = Vec::new();
        while log.read_until(b'\n', &mut line).unwrap() > 0 {
            recorder.line(line.trim_ascii_end());
            line.clear();
        }
        assert!(strace.wait().unwrap().success(), "what was recorded failed");
        assert!(recorder.under_way.is_empty(), "a call did not end: {:?}", recorder.under_way);
        Recording {
            ops: recorder.ops,
            files: recorder.files,
            end: recorder.now,
            at_end: recorder.names,
        }
    }

    /// What all the operations together leave: what a directory without a power cut holds.
    pub(crate) fn files_at_end(&self) -> BTreeMap<String, Vec<u8>> {
        let mut contents = vec![Vec::new(); self.files.len()];
        for op in &self.ops {
            match &op.what {
                What::Write { file, at, data } => overwrite(&mut contents[*file], *at, data),
                What::Truncate { file, len } => contents[*file].resize(*len, 0),
                _ => {}
            }
        }
        let take =
            |(name, file): (&String, &usize)| (name.clone(), std::mem::take(&mut contents[*file]));
        self.at_end.iter().map(take).collect()
    }
}

/// Writes into a file's content, which grows as far as needed.
pub(crate) fn overwrite(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(data);
}

struct Recorder {
    directory: PathBuf,
    ops: Vec<Op>,
    files: Vec<String>,
    /// Which file stands under which name now.
    names: BTreeMap<String, usize>,
    /// The calls that have begun, by thread: their operation, if they have one.
    under_way: HashMap<String, Option<usize>>,
    now: usize,
}

impl Recorder {
    fn line(&mut self, line: &[u8]) {
        let Some(space) = line.iter().position(|byte| *byte == b' ') else { return };
        let (thread, rest) = line.split_at(space);
        let thread = String::from_utf8_lossy(thread).into_owned();
        if !thread.bytes().all(|byte| byte.is_ascii_digit()) {
            // The process's own words, which share the stream.
            eprintln!("{}", String::from_utf8_lossy(line));
            return;
        }
        let rest = rest.trim_ascii_start();
        if rest.starts_with(b"+++") || rest.starts_with(b"---") {
            return;
        }
        if rest.starts_with(b"<... ") {
            let op = self.under_way.remove(&thread).expect("it had begun");
            self.end(op, result_of(rest).1);
        } else if let Some(call) = rest.strip_suffix(b" <unfinished ...>") {
            let op = self.begin(call);
            self.under_way.insert(thread, op);
        } else {
            let (call, result) = result_of(rest);
            let op = self.begin(call);
            self.end(op, result);
        }
    }

    /// A call has begun: the operation it is, unless it is none of ours.
    fn begin(&mut self, call: &[u8]) -> Option<usize> {
        let what = self.what(call)?;
        self.ops.push(Op { what, begun: self.now, ended: usize::MAX });
        self.now += 1;
        Some(self.ops.len() - 1)
    }

    fn end(&mut self, op: Option<usize>, result: i64) {
        let Some(op) = op else { return };
        let op = &mut self.ops[op];
        op.ended = self.now;
        self.now += 1;
        match &mut op.what {
            What::Write { data, .. } if result >= 0 => data.truncate(result as usize),
            _ if result >= 0 => {}
            What::Create { name, .. } => {
                self.names.remove(name);
                op.what = What::Nothing;
            }
            What::Unlink { name } => panic!("{name} could not be removed"),
            what => *what = What::Nothing,
        }
    }

    fn what(&mut self, call: &[u8]) -> Option<What> {
        let open = call.iter().position(|byte| *byte == b'(').expect("a call");
        let name = std::str::from_utf8(&call[..open]).unwrap();
        let arguments: Vec<&[u8]> = split(&call[open + 1..]);
        let argument = |n: usize| std::str::from_utf8(arguments[n]).unwrap();
        match name {
            "openat" | "open" => {
                let path = usize::from(name == "openat");
                let file_name = self.inside(&quoted(arguments[path]))?;
                let flags = argument(path + 1);
                assert!(!flags.contains("O_TRUNC"), "{file_name} was emptied when it was opened");
                if !flags.contains("O_CREAT") || self.names.contains_key(&file_name) {
                    return None;
                }
                let file = self.files.len();
                self.files.push(file_name.clone());
                self.names.insert(file_name.clone(), file);
                Some(What::Create { name: file_name, file })
            }
            "unlink" | "unlinkat" => {
                let path = usize::from(name == "unlinkat");
                let name = self.inside(&quoted(arguments[path]))?;
                self.names.remove(&name).map(|_| What::Unlink { name })
            }
            "write" if argument(0).starts_with("1<") => {
                let text = String::from_utf8(quoted(arguments[1])).unwrap();
                Some(What::Ack(text.strip_prefix("ack ")?.trim_end().parse().unwrap()))
            }
            "write" | "writev" if argument(0).starts_with("2<") => None,
            "pwrite64" => {
                let file = self.file(arguments[0])?;
                let data = quoted(arguments[1]);
                assert_eq!(data.len().to_string(), argument(2), "strace left data out");
                Some(What::Write { file, at: argument(3).parse().unwrap(), data })
            }
            "ftruncate" => {
                let file = self.file(arguments[0])?;
                Some(What::Truncate { file, len: argument(1).parse().unwrap() })
            }
            "fsync" | "fdatasync" => {
                if descriptor(arguments[0])? == self.directory.as_os_str().as_encoded_bytes() {
                    return Some(What::SyncDirectory);
                }
                self.file(arguments[0]).map(What::SyncFile)
            }
            // What is mapped for reading or privately changes nothing.
            "mmap" if !argument(2).contains("PROT_WRITE") || !argument(3).contains("SHARED") => {
                None
            }
            // Anything else is no part of the model.
            _ => {
                for argument in arguments {
                    let paths = [descriptor(argument), Some(quoted(argument))];
                    for path in paths.into_iter().flatten() {
                        let inside = self.inside(&path);
                        assert!(inside.is_none(), "{name} of {inside:?} is not understood");
                    }
                }
                None
            }
        }
    }

    /// The name in the directory, if it is there and durable.
    fn inside(&self, path: &[u8]) -> Option<String> {
        let path = String::from_utf8_lossy(path);
        let name = Path::new(&*path).strip_prefix(&self.directory).ok()?.to_str().unwrap();
        (!name.is_empty() && !name.ends_with("-shm")).then(|| name.to_owned())
    }

    /// The file that the descriptor stands for.
    fn file(&self, argument: &[u8]) -> Option<usize> {
        let name = self.inside(&descriptor(argument)?)?;
        assert!(!argument.ends_with(b"(deleted)"), "{name} was used after its name was removed");
        Some(*self.names.get(&name).expect("it was created"))
    }
}

/// A line without its result, and that.
fn result_of(line: &[u8]) -> (&[u8], i64) {
    let at = line.windows(3).rposition(|window| window == b" = ").expect("a result");
    let result: Vec<u8> = line[at + 3..]
        .iter()
        .copied()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'-')
        .collect();
    let call = line[..at].trim_ascii_end();
    // What never returned (`?`) did nothing that is looked at.
    (
        call.strip_suffix(b")").unwrap_or(call),
        String::from_utf8(result).unwrap().parse().unwrap_or(0),
    )
}

/// The arguments. Strings are hexadecimal, so that no comma is within one.
fn split(arguments: &[u8]) -> Vec<&[u8]> {
    arguments.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect()
}

/// The path of a descriptor such as `5<\x2f\x61>`.
fn descriptor(argument: &[u8]) -> Option<Vec<u8>> {
    let from = argument.iter().position(|byte| *byte == b'<')?;
    let to = argument.iter().rposition(|byte| *byte == b'>')?;
    Some(unescape(&argument[from + 1..to]))
}

/// A string such as `"\x2f\x61"`.
fn quoted(argument: &[u8]) -> Vec<u8> {
    let quoteless = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    unescape(quoteless.unwrap_or(argument))
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut at = 0;
    while at < text.len() {
        if text[at] == b'\\' {
            assert_eq!(text[at + 1], b'x', "strace writes hexadecimally");
            bytes.push(nibble(text[at + 2]) << 4 | nibble(text[at + 3]));
            at += 4;
        } else {
            bytes.push(text[at]);
            at += 1;
        }
    }
    bytes
}

fn nibble(digit: u8) -> u8 {
    if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 }
}
