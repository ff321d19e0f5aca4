//! Formats that run code when they are loaded, told by a file's name and by its first and last bytes. A signature says who
//! made a file, not that it is data.

use std::fmt;
use std::str::FromStr;

/// How many bytes from the beginning are looked at.
pub const HEAD_MAX: usize = 256;

/// The number with which `torch.save` began before version 1.6, as a pickle writes it (PyTorch, `torch/serialization.py`).
const TORCH_MAGIC: &[u8] = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19";

/// A kind of file that is no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Python objects: loading one runs what it says.
    Pickle,
    /// A zip archive, in which PyTorch and Keras keep pickles and code; what is in it is not looked at.
    Archive,
    /// HDF5, in which Keras keeps Lambda layers.
    Hdf5,
    /// Text that some program runs.
    Script,
    /// Machine code or bytecode.
    Native,
}

const NAMES: [(&str, Format); 5] = [
    ("pickle", Format::Pickle),
    ("archive", Format::Archive),
    ("hdf5", Format::Hdf5),
    ("script", Format::Script),
    ("native", Format::Native),
];

const ENDINGS: [(Format, &[&str]); 5] = [
    (
        Format::Pickle,
        &["pkl", "pickle", "pt", "pth", "ptl", "ckpt", "joblib", "dill", "cloudpickle", "torchscript"],
    ),
    (Format::Archive, &["zip", "npz", "keras", "mar", "whl", "egg"]),
    (Format::Hdf5, &["h5", "hdf5"]),
    (Format::Script, &["py", "pyw", "ipynb", "sh", "bash", "pl", "rb", "lua", "js", "ps1", "bat", "cmd"]),
    (Format::Native, &["so", "dll", "dylib", "exe", "o", "a", "pyc", "pyo", "pyd", "class", "jar", "wasm"]),
];

impl Format {
    /// The format of a file, by its name, its first [`HEAD_MAX`] bytes and its last one; `None` for what is data.
    pub fn of(path: &str, head: &[u8], last: Option<u8>) -> Option<Self> {
        by_name(path).or_else(|| by_content(head, last))
    }

    /// Why it is refused.
    pub fn why(self) -> &'static str {
        match self {
            Self::Pickle => "is a pickle: loading it runs the code in it",
            Self::Archive => "is an archive, which may hold pickles or code",
            Self::Hdf5 => "is HDF5, which may hold Keras layers with code",
            Self::Script => "is a script",
            Self::Native => "is machine code or bytecode",
        }
    }
}

fn by_name(path: &str) -> Option<Format> {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    if name.contains(".so.") {
        return Some(Format::Native);
    }
    let (stem, ending) = name.rsplit_once('.')?;
    let known = ENDINGS.iter().find(|(_, endings)| endings.contains(&ending));
    known.map(|(format, _)| *format).filter(|_| !stem.is_empty())
}

fn by_content(head: &[u8], last: Option<u8>) -> Option<Format> {
    // Every pickle ends with the same operation. Protocols 2 to 5 begin with their number; before them, code to run was
    // named in two lines of text. PyTorch's format before its archives goes on with the weights after its pickles.
    let numbered = matches!(head, [0x80, 2..=5, ..]);
    if last == Some(b'.') && (numbered || names_code(head))
        || numbered && head.windows(TORCH_MAGIC.len()).any(|part| part == TORCH_MAGIC)
    {
        return Some(Format::Pickle);
    }
    // An array of objects is a pickle inside.
    if head.starts_with(b"\x93NUMPY") && head.windows(2).any(|part| part == b"|O") {
        return Some(Format::Pickle);
    }
    let begins: [(&[u8], Format); 7] = [
        (b"PK\x03\x04", Format::Archive),
        (b"\x89HDF\r\n\x1a\n", Format::Hdf5),
        (b"#!", Format::Script),
        (b"\x7fELF", Format::Native),
        (b"\0asm", Format::Native),
        (b"\xca\xfe\xba\xbe", Format::Native),
        (b"\xcf\xfa\xed\xfe", Format::Native),
    ];
    begins.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, format)| *format)
}

/// Whether this is the operation `GLOBAL`, module and name a line each, and one that goes on with it
/// (CPython, `Lib/pickletools.py`).
fn names_code(head: &[u8]) -> bool {
    let word = |line: &[u8]| {
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.".contains(byte);
        !line.is_empty() && line.iter().all(legal)
    };
    let Some(rest) = head.strip_prefix(b"c") else { return false };
    let mut lines = rest.splitn(3, |&byte| byte == b'\n');
    let (module, name, next) = (lines.next(), lines.next(), lines.next());
    module.is_some_and(word)
        && name.is_some_and(word)
        && next.is_some_and(|next| {
            matches!(next, [b'(' | b')' | b'q' | b'r' | 0x85..=0x87, ..] | [b'p', b'0'..=b'9', ..])
        })
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, format)| format == self).map_or("", |(name, _)| name);
        out.pad(name)
    }
}

/// A word that names no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no format: write one of `pickle`, `archive`, `hdf5`, `script`, `native`")]
pub struct FormatError(String);

impl FromStr for Format {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, format)| *format).ok_or_else(|| FormatError(text.chars().take(40).collect()))
    }
}
