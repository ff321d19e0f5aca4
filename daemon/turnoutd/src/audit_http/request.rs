//! What a request names: a path below the folder, in its one spelling, and perhaps a range of bytes. Pure; whatever is
//! not plainly one of these is refused.

use turnout_host::beneath::is_canonical;

/// Longest path, bytes, once decoded.
const PATH_MAX: usize = 1024;

/// A path below the folder; empty for the folder itself. True beside it when it ended with a slash.
pub fn path(raw: &str) -> Option<(String, bool)> {
    let below = decoded(raw.strip_prefix('/')?)?;
    let (below, slash) = below.strip_suffix('/').map_or((below.as_str(), false), |folder| (folder, true));
    if below.is_empty() {
        // `//` would be another spelling.
        return (!slash).then(|| (String::new(), true));
    }
    let legal = below.len() <= PATH_MAX && is_canonical(below) && !below.contains(char::is_control);
    legal.then(|| (below.to_owned(), slash))
}

fn decoded(raw: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            // `from_str_radix` takes a sign.
            let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let byte = u8::from_str_radix(digits, 16).ok().filter(|_| hexadecimal)?;
            // An escaped slash would be part of a name, which no name can have.
            bytes.push(if byte == b'/' { return None } else { byte });
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// What part of a file is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Whole,
    /// From the first to before the second.
    Part(u64, u64),
    /// A part that the file does not have.
    Nothing,
}

/// The part that a `Range` header asks for. What is no single range of bytes asks for nothing special (RFC 9110, 14.2).
pub fn range(header: Option<&str>, length: u64) -> Wanted {
    let Some((first, last)) = header.and_then(|text| text.strip_prefix("bytes=")?.split_once('-')) else {
        return Wanted::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse::<u64>().ok() } else { None }
    };
    match (number(first), number(last), first.is_empty(), last.is_empty()) {
        (Some(first), _, _, true) if first < length => Wanted::Part(first, length),
        (Some(first), Some(last), ..) if first <= last && first < length => {
            Wanted::Part(first, last.saturating_add(1).min(length))
        }
        (None, Some(suffix), true, _) if suffix > 0 && length > 0 => {
            Wanted::Part(length.saturating_sub(suffix), length)
        }
        (Some(first), Some(last), ..) if first > last => Wanted::Whole,
        (Some(_), _, _, true) | (Some(_), Some(_), ..) | (None, Some(_), true, _) => Wanted::Nothing,
        _ => Wanted::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_plain_paths_below_the_folder_are_taken() {
        let name = |text: &str| Some((text.to_owned(), false));
        assert_eq!(path("/"), Some((String::new(), true)));
        assert_eq!(path("/a/b.onnx"), name("a/b.onnx"));
        assert_eq!(path("/a/"), Some(("a".to_owned(), true)));
        assert_eq!(path("/digits%40ab"), name("digits@ab"));
        assert_eq!(path("/%C3%BC"), name("ü"));
        for bad in [
            "",
            "a",
            "//",
            "/a//b",
            "/..",
            "/a/..",
            "/a/../b",
            "/%2e%2e/b",
            "/a/.",
            "/%2E",
            "/a%2fb",
            "/a%00b",
            "/%",
            "/%4",
            "/%zz",
            "/%+4",
            "/%ff",
            "/a%0ab",
            "//etc/passwd",
        ] {
            assert_eq!(path(bad), None, "{bad:?}");
        }
        assert_eq!(path(&format!("/{}", "x".repeat(PATH_MAX + 1))), None);
    }

    #[test]
    fn ranges_are_those_of_the_rfc() {
        use Wanted::{Nothing, Part, Whole};
        for (header, length, wanted) in [
            (None, 10, Whole),
            (Some("bytes=0-"), 10, Part(0, 10)),
            (Some("bytes=3-5"), 10, Part(3, 6)),
            (Some("bytes=3-99"), 10, Part(3, 10)),
            (Some("bytes=9-18446744073709551615"), 10, Part(9, 10)),
            (Some("bytes=-3"), 10, Part(7, 10)),
            (Some("bytes=-99"), 10, Part(0, 10)),
            (Some("bytes=10-"), 10, Nothing),
            (Some("bytes=0-0"), 0, Nothing),
            (Some("bytes=-0"), 10, Nothing),
            (Some("bytes=5-3"), 10, Whole),
            (Some("bytes=-"), 10, Whole),
            (Some("bytes=a-b"), 10, Whole),
            (Some("bytes=+1-2"), 10, Whole),
            (Some("bytes=0-1,3-4"), 10, Whole),
            (Some("items=0-1"), 10, Whole),
        ] {
            assert_eq!(range(header, length), wanted, "{header:?} of {length}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_stays_below_and_inside(raw in "(/|%2e|%2f|\\.|[a-z]|%[0-9a-f]{2}|\\PC){0,12}", header in "bytes=[-0-9,]{0,24}", length in 0..100_u64) {
            if let Some((below, _)) = path(&raw) {
                prop_assert!(below.is_empty() || below.split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
            if let Wanted::Part(first, end) = range(Some(&header), length) {
                prop_assert!(first < end && end <= length);
            }
        }
    }
}
