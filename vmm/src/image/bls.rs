//! Entries of the Boot Loader Specification (UAPI.1, Type #1): a file each, `loader/entries/ID.conf`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::version;
use super::volume::Volume;

/// Longest file of an entry, in bytes.
const ENTRY_MAX: u64 = 64 << 10;
/// Most entries that are read.
const MOST: usize = 256;
/// Where entries are: at the root of a filesystem of their own, or below /boot.
const FOLDERS: [&str; 2] = ["/", "/boot/"];

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The name of its file without `.conf` and without its count of tries.
    pub id: String,
    /// How the menu calls it.
    pub title: String,
    /// The kernel; none where it boots something else.
    pub linux: Option<String>,
    /// The initial RAM disks.
    pub initrds: Vec<String>,
    /// The kernel's command line.
    pub options: String,
    version: String,
    machine_id: String,
    sort_key: String,
    /// Whether it was tried as often as it was to be, in vain.
    has_failed: bool,
}

/// The entries of a filesystem.
#[derive(Debug, Default)]
pub struct Entries {
    /// In the order of the menu.
    pub all: Vec<Entry>,
    /// Where they are, with slashes around: paths that are not found are looked for there, too.
    pub folder: &'static str,
    /// What `loader.conf` names as the default: a pattern.
    pub default: Option<String>,
}

impl Entries {
    /// Those of `volume`, if it has any.
    pub fn find(volume: &Volume) -> Option<Entries> {
        FOLDERS.into_iter().find_map(|folder| {
            let entries = format!("{folder}loader/entries");
            let mut names = volume.files.list(&entries).ok()?;
            names.retain(|name| name.ends_with(".conf"));
            names.sort_unstable();
            names.truncate(MOST);
            let read = |name: &String| {
                let text = volume.text(&format!("{entries}/{name}"), ENTRY_MAX).ok()??;
                Some(Entry::parse(name, &text)).filter(Entry::is_for_us)
            };
            let mut all: Vec<Entry> = names.iter().filter_map(read).collect();
            all.sort_by(order);
            if all.is_empty() {
                return None;
            }
            let config = volume.text(&format!("{folder}loader/loader.conf"), ENTRY_MAX).ok();
            let config = config.flatten().unwrap_or_default();
            let default = fields(&config).find(|(key, _)| *key == "default");
            let default = default.map(|(_, value)| value.to_owned());
            Some(Entries { all, folder, default })
        })
    }

    /// The entry that `loader.conf` has as its default.
    pub fn preferred(&self) -> Option<usize> {
        let pattern = self.default.as_deref()?;
        let is = |entry: &Entry| {
            matches(pattern, &entry.id) || matches(pattern, &format!("{}.conf", entry.id))
        };
        self.all.iter().position(is)
    }
}

/// The keys of a file with their values.
fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let (key, value) = line.split_once([' ', '\t'])?;
        Some((key, value.trim()))
    })
}

impl Entry {
    fn parse(name: &str, text: &str) -> Entry {
        let name = name.strip_suffix(".conf").unwrap_or(name);
        let (id, has_failed) = without_tries(name);
        let mut entry = Entry { id: id.to_owned(), has_failed, ..Entry::default() };
        let mut is_foreign = false;
        for (key, value) in fields(text) {
            let set = |field: &mut String| value.clone_into(field);
            match key {
                "title" => set(&mut entry.title),
                "version" => set(&mut entry.version),
                "machine-id" => set(&mut entry.machine_id),
                "sort-key" => set(&mut entry.sort_key),
                "linux" => entry.linux = Some(value.to_owned()),
                // GRUB's entries have several in a line.
                "initrd" => entry.initrds.extend(value.split_whitespace().map(str::to_owned)),
                "options" => {
                    let space = if entry.options.is_empty() { "" } else { " " };
                    entry.options += &format!("{space}{value}");
                }
                "architecture" => is_foreign = !value.eq_ignore_ascii_case("x64"),
                _ => {}
            }
        }
        if is_foreign {
            entry.linux = None;
        }
        if entry.title.is_empty() {
            entry.title.clone_from(&entry.id);
        }
        entry.initrds.truncate(16);
        entry
    }

    fn is_for_us(&self) -> bool {
        self.linux.is_some()
    }

    /// The same with what `variables` have in place of their names, as GRUB has it.
    pub fn expanded(&self, variables: &BTreeMap<String, String>) -> Entry {
        let expand = |text: &str| expand(text, variables);
        let initrds = self.initrds.iter().map(|path| expand(path)).filter(|path| !path.is_empty());
        Entry {
            linux: self.linux.as_deref().map(expand),
            initrds: initrds.collect(),
            options: expand(&self.options),
            ..self.clone()
        }
    }
}

/// `name+LEFT-DONE` or `name+LEFT`: tries that are left, and those that were made.
fn without_tries(name: &str) -> (&str, bool) {
    let parsed = name.rsplit_once('+').and_then(|(id, tries)| {
        let (left, done) = tries.split_once('-').unwrap_or((tries, "0"));
        Some((id, left.parse::<u32>().ok()?, done.parse::<u32>().ok()?))
    });
    parsed.map_or((name, false), |(id, left, _)| (id, left == 0))
}

/// Which of two comes first in the menu.
fn order(one: &Entry, other: &Entry) -> Ordering {
    let keyed = |entry: &Entry| entry.sort_key.is_empty();
    one.has_failed.cmp(&other.has_failed).then_with(|| keyed(one).cmp(&keyed(other))).then_with(
        || {
            if keyed(one) {
                return version::compare(&other.id, &one.id);
            }
            let by_key = one.sort_key.cmp(&other.sort_key);
            by_key
                .then_with(|| one.machine_id.cmp(&other.machine_id))
                .then_with(|| version::compare(&other.version, &one.version))
                .then_with(|| version::compare(&other.id, &one.id))
        },
    )
}

/// With values in place of `$name` and `${name}`.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut parts = text.split('$');
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, rest) = match part.strip_prefix('{').and_then(|part| part.split_once('}')) {
            Some(split) => split,
            None => part.split_at(part.find(|c| !is_name(c)).unwrap_or(part.len())),
        };
        all += variables.get(name).map_or("", String::as_str);
        all += rest;
        // Longer than any command line.
        if all.len() > ENTRY_MAX as usize {
            break;
        }
    }
    all.trim().to_owned()
}

/// Whether a pattern of shells matches, as far as `*` and `?` go. It takes as long as both are long,
/// multiplied.
fn matches(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    // Which beginnings of the text the pattern matches so far.
    let mut matched = vec![false; text.len() + 1];
    matched[0] = true;
    for c in pattern.chars() {
        let mut next = vec![false; matched.len()];
        match c {
            '*' => {
                let mut any = false;
                for (at, matched) in matched.iter().enumerate() {
                    any |= matched;
                    next[at] = any;
                }
            }
            c => {
                for (at, found) in text.iter().enumerate() {
                    next[at + 1] = matched[at] && (c == '?' || c == *found);
                }
            }
        }
        matched = next;
    }
    matched.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(files: &[(&str, &str)]) -> Vec<String> {
        let mut all: Vec<Entry> =
            files.iter().map(|(name, text)| Entry::parse(name, text)).collect();
        all.sort_by(order);
        all.into_iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn an_entry_is_what_its_file_says() {
        let text = "# made by hand\ntitle  Fedora Linux\nversion 6.11.4\nlinux /vmlinuz-6.11.4\n\
                    initrd /initramfs.img $tuned_initrd\noptions root=UUID=a ro\n\toptions quiet $more\n\
                    grub_class fedora\n";
        let entry = Entry::parse("m-6.11.4+3-1.conf", text);
        assert_eq!((entry.id.as_str(), entry.title.as_str()), ("m-6.11.4", "Fedora Linux"));
        assert!(!entry.has_failed && entry.is_for_us());
        let variables = BTreeMap::from([("more".to_owned(), "rhgb".to_owned())]);
        let entry = entry.expanded(&variables);
        assert_eq!(entry.options, "root=UUID=a ro quiet rhgb");
        assert_eq!(entry.initrds, ["/initramfs.img"]);
        assert!(!Entry::parse("a.conf", "efi /EFI/shell.efi").is_for_us());
        assert!(!Entry::parse("a.conf", "linux /Image\narchitecture aa64").is_for_us());
        assert_eq!(Entry::parse("a.conf", "linux /k").title, "a");
    }

    #[test]
    fn the_order_is_that_of_the_specification() {
        let plain = [
            ("m-0-rescue.conf", "linux /k"),
            ("m-6.9.1.conf", "linux /k"),
            ("m-6.11.4.conf", "linux /k"),
        ];
        assert_eq!(sorted(&plain), ["m-6.11.4", "m-6.9.1", "m-0-rescue"]);
        let keyed = [
            ("z.conf", "sort-key b\nversion 1"),
            ("y.conf", "sort-key a\nversion 1"),
            ("x.conf", "sort-key a\nversion 2"),
            ("w+0-3.conf", "sort-key a\nversion 3"),
            ("9.conf", "version 9"),
        ];
        assert_eq!(sorted(&keyed), ["x", "y", "z", "9", "w"]);
    }

    #[test]
    fn patterns_match_as_in_shells() {
        for (pattern, text) in [("a*", "abc"), ("*", ""), ("a?c", "abc"), ("*c*", "abc"), ("", "")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "abc"), ("?", ""), ("*d", "abc"), ("@saved", "a")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        matches(&"*a".repeat(1000), &"a".repeat(2000));
    }
}
