//! Writes the archive that a kernel unpacks as its first root, in the `newc` format of
//! Documentation/driver-api/early-userspace/buffer-format.rst.

/// What an entry is; the values are those of `st_mode`.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A folder.
    Folder = 0o040_755,
    /// A file that may be executed.
    Program = 0o100_755,
}

/// An archive in the making.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds an entry; a folder comes before what is in it.
    pub fn add(&mut self, path: &str, kind: Kind, content: &[u8]) {
        self.entry(path, kind as u32, content);
    }

    /// The archive, closed.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("an entry of the first root is far below 4 GiB");
        let name = u32::try_from(path.len() + 1).expect("a path is short");
        // inode, mode, uid, gid, links, mtime, size, device and special device (two numbers each), name's size, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_is_last() {
        let mut archive = Archive::default();
        archive.add("bin", Kind::Folder, &[]);
        archive.add("bin/a", Kind::Program, b"12345");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let at: Vec<_> = text.match_indices("070701").map(|(at, _)| at).collect();
        // A header has 110 bytes: 110 + 4 is aligned to 116 by "bin", its zero and two more.
        assert_eq!(at, [0, 116, 116 + 116 + 8]);
        assert_eq!(
            &text[at[1]..at[1] + 62],
            "070701000000020000".to_owned() + "81ED" + "00000000000000000000000100000000" + "00000005"
        );
        assert!(text[at[2]..].contains("TRAILER!!!"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
