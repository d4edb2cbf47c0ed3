//! A small ISO 9660 file system (ECMA-119): one folder with a few files, whose names are as they are
//! given to those that know Rock Ridge (IEEE P1282: Linux, the BSDs) or Joliet (Windows). The same
//! files always make the same image.
//!
//! ```text
//! block  0   16       17        18    19,20        21,22       23      24      25…
//!        –   primary  Joliet's  end   path tables  Joliet's    folder  Joliet's  files
//! ```

/// Bytes of a block.
const BLOCK: usize = 2048;
const PRIMARY: usize = 16;
const JOLIET: usize = 17;
const END: usize = 18;
/// Path tables, each with the other order of bytes behind it.
const TABLES: [usize; 2] = [19, 21];
const FOLDERS: [usize; 2] = [23, 24];
const FILES: usize = 25;

/// Bytes of a folder's record for itself, and of a path table with one folder.
const ROOT_RECORD: usize = 34;
const TABLE: usize = 10;

/// What a descriptor begins with, behind its type.
const STANDARD: &[u8] = b"CD001\x01";
/// UCS-2, level 3 (Joliet specification).
const UCS_2: &[u8] = b"%/E";
/// How Rock Ridge calls itself.
const ROCK_RIDGE: &[u8] = b"RRIP_1991A";

/// Modes of Rock Ridge: what is in there is for root alone.
const FOLDER_MODE: u32 = 0o040_500;
const FILE_MODE: u32 = 0o100_400;

/// A file.
#[derive(Debug)]
pub struct Entry {
    /// Its name, of ASCII letters, digits and hyphens: at most 64.
    pub name: &'static str,
    /// What is in it.
    pub data: Vec<u8>,
}

/// Which of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    Primary,
    Joliet,
}

/// The image of a file system with this label (at most 16 ASCII characters) and these files, in the
/// order of their names. There are so few that a block has their records.
pub fn image(label: &str, files: &[Entry]) -> Vec<u8> {
    let blocks = |file: &Entry| file.data.len().div_ceil(BLOCK);
    let count = FILES + files.iter().map(blocks).sum::<usize>();
    let mut image = vec![0; count * BLOCK];
    let mut put = |block: usize, bytes: &[u8]| {
        image[block * BLOCK..][..bytes.len()].copy_from_slice(bytes);
    };
    put(PRIMARY, &descriptor(Tree::Primary, label, count));
    put(JOLIET, &descriptor(Tree::Joliet, label, count));
    put(END, &[&[255], STANDARD].concat());
    for (table, folder) in TABLES.into_iter().zip(FOLDERS) {
        // Length of its name, where it is, its parent's number, and its name.
        let entry =
            |place: [u8; 4], parent: [u8; 2]| [&[1, 0][..], &place, &parent, &[0, 0]].concat();
        put(table, &entry((folder as u32).to_le_bytes(), 1_u16.to_le_bytes()));
        put(table + 1, &entry((folder as u32).to_be_bytes(), 1_u16.to_be_bytes()));
    }
    for (tree, folder) in [Tree::Primary, Tree::Joliet].into_iter().zip(FOLDERS) {
        put(folder, &records(tree, folder, files));
    }
    let mut next = FILES;
    for file in files {
        put(next, &file.data);
        next += blocks(file);
    }
    image
}

/// All records of the folder.
fn records(tree: Tree, folder: usize, files: &[Entry]) -> Vec<u8> {
    let of_folder = |name: u8, more: &[u8]| {
        let more = if tree == Tree::Primary { more } else { &[] };
        record(&[name], folder, BLOCK, true, more)
    };
    let attributes = attributes(FOLDER_MODE, 2);
    let own = [&[b'S', b'P', 7, 1, 0xbe, 0xef, 0][..], &attributes, &extension()].concat();
    let mut records = of_folder(0, &own);
    records.extend(of_folder(1, &attributes));
    let mut next = FILES;
    for Entry { name, data } in files {
        // What is empty is nowhere: behind the last file, it would be outside of the volume.
        let place = if data.is_empty() { 0 } else { next };
        let record = match tree {
            Tree::Primary => {
                let rock_ridge = [
                    self::attributes(FILE_MODE, 1),
                    [b"NM", &[5 + name.len() as u8, 1, 0][..], name.as_bytes()].concat(),
                ];
                record(short(name).as_bytes(), place, data.len(), false, &rock_ridge.concat())
            }
            Tree::Joliet => record(&ucs_2(&format!("{name};1")), place, data.len(), false, &[]),
        };
        records.extend(record);
        next += data.len().div_ceil(BLOCK);
    }
    records
}

/// A directory record (ECMA-119, 9.1), without a date.
fn record(name: &[u8], block: usize, size: usize, is_folder: bool, more: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both(block as u32));
    record.extend(both(size as u32));
    record.extend([0; 7]);
    record.extend([if is_folder { 2 } else { 0 }, 0, 0]);
    record.extend(both_16(1));
    record.push(name.len() as u8);
    record.extend(name);
    even(&mut record);
    record.extend(more);
    even(&mut record);
    record[0] = record.len() as u8;
    record
}

fn even(record: &mut Vec<u8>) {
    if !record.len().is_multiple_of(2) {
        record.push(0);
    }
}

/// `PX` of Rock Ridge: mode, number of links, and root as owner.
fn attributes(mode: u32, links: u32) -> Vec<u8> {
    let numbers = [mode, links, 0, 0].map(both).concat();
    [b"PX", &[36, 1][..], &numbers].concat()
}

/// `ER`, which says that it is Rock Ridge.
fn extension() -> Vec<u8> {
    let length = ROCK_RIDGE.len() as u8;
    [b"ER", &[8 + length, 1, length, 0, 0, 1][..], ROCK_RIDGE].concat()
}

/// The name for those that know neither: at most 8 capitals, digits and underscores, and the version.
fn short(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().take(8).map(plain).chain(".;1".chars()).collect()
}

fn ucs_2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// A volume descriptor (ECMA-119, 8.4 and 8.5).
fn descriptor(tree: Tree, label: &str, blocks: usize) -> Vec<u8> {
    let at = usize::from(tree == Tree::Joliet);
    let mut descriptor = vec![0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| descriptor[at..at + bytes.len()].copy_from_slice(bytes);
    // Texts, filled up with spaces.
    let texts = [(8, 32), (40, 32), (190, 128), (318, 128), (446, 128), (574, 128)];
    let names = [(702, 37), (739, 37), (776, 37)];
    for (at, length) in texts.into_iter().chain(names) {
        let spaces = match tree {
            Tree::Primary => vec![b' '; length],
            Tree::Joliet => ucs_2(&" ".repeat(length / 2)),
        };
        put(at, &spaces);
    }
    put(0, &[if tree == Tree::Primary { 1 } else { 2 }]);
    put(1, STANDARD);
    match tree {
        Tree::Primary => put(40, label.as_bytes()),
        Tree::Joliet => {
            put(40, &ucs_2(label));
            put(88, UCS_2);
        }
    }
    put(80, &both(blocks as u32));
    // One volume of one, and the size of its blocks.
    put(120, &[both_16(1), both_16(1), both_16(BLOCK as u16)].concat());
    put(132, &both(TABLE as u32));
    put(140, &(TABLES[at] as u32).to_le_bytes());
    put(148, &(TABLES[at] as u32 + 1).to_be_bytes());
    let root = record(&[0], FOLDERS[at], BLOCK, true, &[]);
    debug_assert_eq!(root.len(), ROOT_RECORD);
    put(156, &root);
    // Dates that are not told: digits 0, and no time zone.
    for at in [813, 830, 847, 864] {
        put(at, &[b'0'; 16]);
    }
    put(881, &[1]);
    descriptor
}

/// A number in both orders of bytes (ECMA-119, 7.3.3).
fn both(number: u32) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

/// The same of 16 bits (7.2.3).
fn both_16(number: u16) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le(bytes: &[u8]) -> usize {
        u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes")) as usize
    }

    /// Name, contents and what of Rock Ridge is there of each record of the folder that the descriptor
    /// in `block` names.
    fn read(image: &[u8], block: usize) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
        let descriptor = &image[block * BLOCK..][..BLOCK];
        assert_eq!(&descriptor[1..7], STANDARD);
        assert_eq!(le(&descriptor[80..]) * BLOCK, image.len());
        let root = &descriptor[156..190];
        let (mut at, size) = (le(&root[2..]) * BLOCK, le(&root[10..]));
        let end = at + size;
        let mut found = Vec::new();
        while at < end && image[at] != 0 {
            let record = &image[at..][..usize::from(image[at])];
            let mut other = record[6..10].to_vec();
            other.reverse();
            assert_eq!(record[2..6], other, "both orders of bytes");
            let (start, length) = (le(&record[2..]) * BLOCK, le(&record[10..]));
            assert!(start < image.len());
            let name = &record[33..][..usize::from(record[32])];
            let more = &record[(33 + name.len()).next_multiple_of(2)..];
            found.push((name.to_vec(), image[start..][..length].to_vec(), more.to_vec()));
            at += record.len();
        }
        found
    }

    fn files() -> Vec<Entry> {
        vec![
            Entry { name: "meta-data", data: b"instance-id: a\n".to_vec() },
            Entry { name: "network-config", data: vec![b'n'; BLOCK + 1] },
            Entry { name: "user-data", data: Vec::new() },
        ]
    }

    #[test]
    fn each_tree_has_the_files_by_its_own_names() {
        let files = files();
        let image = image("cidata", &files);
        assert_eq!(image.len(), (FILES + 3) * BLOCK);
        let (primary, joliet) = (read(&image, PRIMARY), read(&image, JOLIET));
        assert_eq!((primary.len(), joliet.len()), (5, 5));
        for (at, file) in files.iter().enumerate() {
            let (short, data, more) = &primary[at + 2];
            assert!(short.ends_with(b".;1") && short.len() <= 11);
            assert_eq!(data, &file.data);
            let named =
                [&b"NM"[..], &[5 + file.name.len() as u8, 1, 0], file.name.as_bytes()].concat();
            assert!(more.starts_with(b"PX\x24\x01\x00\x81\x00\x00"), "{more:?}");
            assert!(more[36..].starts_with(&named));
            let (long, data, more) = &joliet[at + 2];
            assert_eq!(long, &ucs_2(&format!("{};1", file.name)));
            assert_eq!((data, more.len()), (&file.data, 0));
        }
        let (name, _, more) = &primary[0];
        assert_eq!(name, &[0]);
        assert!(more.starts_with(b"SP\x07\x01\xbe\xef\x00PX"));
        assert!(more[7 + 36..].starts_with(b"ER\x12\x01\x0a\x00\x00\x01RRIP_1991A"));
        assert_eq!(primary[1].0, [1]);
    }

    #[test]
    fn the_label_is_in_both_descriptors_and_a_third_ends_them() {
        let image = image("cidata", &files());
        assert!(image[PRIMARY * BLOCK + 40..].starts_with(b"cidata    "));
        assert!(image[JOLIET * BLOCK + 40..].starts_with(b"\0c\0i\0d\0a\0t\0a\0 \0 "));
        assert_eq!(&image[JOLIET * BLOCK + 88..][..3], UCS_2);
        assert!(image[END * BLOCK..].starts_with(b"\xffCD001\x01"));
        for (table, folder) in TABLES.into_iter().zip(FOLDERS) {
            let little = &image[table * BLOCK..][..TABLE];
            let big = &image[(table + 1) * BLOCK..][..TABLE];
            assert_eq!(little, [1, 0, folder as u8, 0, 0, 0, 1, 0, 0, 0]);
            assert_eq!(big, [1, 0, 0, 0, 0, folder as u8, 0, 1, 0, 0]);
        }
    }
}
