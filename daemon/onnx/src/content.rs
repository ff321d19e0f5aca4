//! The content policy: which operators a model may use, which files beside it, and which formats may lie in a version's
//! folder at all. Everything it refuses is refused by default and can be allowed by name.

use crate::OnnxError;
use crate::format::{Format, HEAD_MAX};
use crate::header::{Header, header};
use std::io::{self, Read, Seek, SeekFrom};
use turnout_manifest::section::hostile;

/// Domains of operators that the ONNX specification defines.
pub const STANDARD_DOMAINS: [&str; 3] = ["", "ai.onnx", "ai.onnx.ml"];

/// What is allowed on top of what always is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Domains of operators besides [`STANDARD_DOMAINS`], such as `com.microsoft`.
    pub domains: Vec<String>,
    /// Formats that run code when they are loaded, and may lie in the folder all the same.
    pub formats: Vec<Format>,
}

/// What a file is to its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The file that a worker loads, whatever its name says.
    Model,
    /// Any other; a model all the same if its name says so.
    Beside,
}

/// Why a file is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It could not be read.
    #[error("`{path}` cannot be read")]
    Read {
        /// The file.
        path: String,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// It is named as an ONNX model and is none that can be served.
    #[error("`{path}`")]
    Onnx {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: OnnxError,
    },
    /// It would be loaded by another reader than was looked at here.
    #[error("`{path}` is named as a model of ONNX Runtime's own format: save the model as ONNX")]
    OwnFormat {
        /// The file.
        path: String,
    },
    /// It runs code when it is loaded.
    #[error("`{path}` {}: remove it and serve the model as ONNX, or allow the format `{format}`", .format.why())]
    Format {
        /// The file.
        path: String,
        /// What it is.
        format: Format,
    },
    /// An operator of a domain that is not allowed.
    #[error(
        "`{path}` uses operators of the domain `{domain}`: export it with standard operators, or allow the domain"
    )]
    Domain {
        /// The file.
        path: String,
        /// The domain.
        domain: String,
    },
    /// Weights in a file outside the folder.
    #[error(
        "`{path}` has its weights in `{location}`, which {reason}: save them beside the model, or inside it"
    )]
    External {
        /// The file.
        path: String,
        /// Where the weights are said to be.
        location: String,
        /// What is wrong with that.
        reason: &'static str,
    },
}

/// Examines one file of a folder. `beside` tells whether the folder has a file of this path.
///
/// # Errors
/// [`ContentError`], the first that is found.
pub fn examine(
    (path, role): (&str, Role),
    source: &mut (impl Read + Seek),
    policy: &Policy,
    beside: &dyn Fn(&str) -> bool,
) -> Result<(), ContentError> {
    let failed = |source| ContentError::Read { path: path.to_owned(), source };
    let (head, last) = ends(source).map_err(failed)?;
    if let Some(format) = Format::of(path, &head, last)
        && !policy.formats.contains(&format)
    {
        return Err(ContentError::Format { path: path.to_owned(), format });
    }
    let ending = path.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    if ending.as_deref() == Some("ort") {
        return Err(ContentError::OwnFormat { path: path.to_owned() });
    }
    if role == Role::Beside && ending.as_deref() != Some("onnx") {
        return Ok(());
    }
    source.rewind().map_err(failed)?;
    let header = header(source).map_err(|source| ContentError::Onnx { path: path.to_owned(), source })?;
    check_domains(path, &header, policy)?;
    check_external(path, &header, beside)
}

fn ends(source: &mut (impl Read + Seek)) -> io::Result<(Vec<u8>, Option<u8>)> {
    source.rewind()?;
    let mut head = Vec::new();
    source.by_ref().take(HEAD_MAX as u64).read_to_end(&mut head)?;
    let mut last = Vec::new();
    if !head.is_empty() {
        source.seek(SeekFrom::End(-1))?;
        source.by_ref().take(1).read_to_end(&mut last)?;
    }
    Ok((head, last.first().copied()))
}

fn check_domains(path: &str, header: &Header, policy: &Policy) -> Result<(), ContentError> {
    let allowed = |domain: &str| {
        STANDARD_DOMAINS.contains(&domain) || policy.domains.iter().any(|known| known == domain)
    };
    let uses = &header.uses;
    let operators = uses.operators.iter().filter(|operator| !uses.functions.contains(operator));
    // A domain that is only stated, and that none of the model's own functions is of, is refused like one that is used.
    let stated = header.operator_sets.iter().map(|set| &set.domain);
    let stated = stated.filter(|domain| !uses.functions.iter().any(|(own, _)| own == *domain));
    match operators.map(|(domain, _)| domain).chain(stated).find(|domain| !allowed(domain)) {
        None => Ok(()),
        Some(domain) => Err(ContentError::Domain { path: path.to_owned(), domain: printable(domain) }),
    }
}

fn check_external(path: &str, header: &Header, beside: &dyn Fn(&str) -> bool) -> Result<(), ContentError> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    for location in &header.uses.external {
        let full = if folder.is_empty() { location.clone() } else { format!("{folder}/{location}") };
        let reason = match hostile(location) {
            Some(reason) => reason,
            None if !beside(&full) => "is no file of the folder",
            None => continue,
        };
        return Err(ContentError::External { path: path.to_owned(), location: printable(location), reason });
    }
    Ok(())
}

fn printable(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
