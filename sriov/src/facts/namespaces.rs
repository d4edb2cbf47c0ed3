//! Which mount and network namespaces there are besides our own: containers mount disks and take
//! interfaces without a trace in ours.
//!
//! A namespace is found by the processes in it, and a network namespace also by its file where it
//! is kept without a process (`ip netns`, container runtimes). One that a thread alone has, or an
//! open descriptor alone keeps, is not seen; what it holds of a device shows all the same, as an
//! interface that is gone from here, or as a disk that is claimed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::reader::Reader;
use crate::attribute;
use crate::vfio;

/// Bounds, far beyond a real host's.
const MOST_PROCESSES: usize = 1 << 22;
const MOST_NAMESPACES: usize = 1 << 14;
/// Processes remembered of one namespace: some may end while we look.
const WITNESSES: usize = 4;

/// Namespaces other than this process's.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Mount namespaces that are not init's either, with processes in them.
    pub mount: Vec<Vec<u32>>,
    /// Network namespaces.
    pub net: Vec<NetNamespace>,
}

/// A network namespace and the way to it.
#[derive(Debug)]
pub struct NetNamespace {
    /// What people know it by: `network namespace blue`.
    pub name: String,
    /// What a link to it says: `net:[4026532177]`.
    pub link: PathBuf,
    /// Files that stand for it, any of which may have gone meanwhile.
    pub files: Vec<PathBuf>,
}

impl Namespaces {
    /// Looks at every process.
    pub fn read(reader: &mut Reader) -> Namespaces {
        let mut found = Found::default();
        let own =
            |kind: &str| attribute::link_target(&reader.root.proc(&format!("self/ns/{kind}")));
        // Without it nobody is in another namespace: a recorded tree, or no procfs.
        let (Ok(Some(own_mount)), Ok(Some(own_net))) = (own("mnt"), own("net")) else {
            return Namespaces::default();
        };
        let processes = reader.entries(&reader.root.proc(""));
        for pid in processes.iter().filter_map(|name| name.parse().ok()).take(MOST_PROCESSES) {
            found.look_at(reader, pid);
        }
        if let Some((pid, cause)) = &found.unseen {
            let path = reader.root.proc(&format!("{pid}/ns"));
            reader.note(&path, format!("the namespaces of process {pid} cannot be seen: {cause}"));
        }
        if found.mount.len().max(found.net.len()) >= MOST_NAMESPACES {
            let path = reader.root.proc("");
            reader.note(&path, format!("more than {MOST_NAMESPACES} namespaces: not all are read"));
        }
        let init = attribute::link_target(&reader.root.proc("1/ns/mnt")).ok().flatten();
        found.mount.retain(|link, _| *link != own_mount && Some(link) != init.as_ref());
        found.net.remove(&own_net);
        let mut kept = kept(reader);
        let net = found.net.into_iter().map(|(link, pids)| {
            let files = pids.iter().map(|pid| reader.root.proc(&format!("{pid}/ns/net")));
            let mut files: Vec<PathBuf> = files.collect();
            let name = match kept.remove(&link) {
                Some((name, file)) => {
                    files.insert(0, file);
                    format!("network namespace {name}")
                }
                None => format!("the network namespace of {}", process(reader, &pids)),
            };
            NetNamespace { name, link, files }
        });
        let mut net: Vec<NetNamespace> = net.collect();
        kept.remove(&own_net);
        net.extend(kept.into_iter().map(|(link, (name, file))| NetNamespace {
            name: format!("network namespace {name}"),
            link,
            files: vec![file],
        }));
        Namespaces { mount: found.mount.into_values().collect(), net }
    }
}

/// Processes by what their namespace links say.
#[derive(Default)]
struct Found {
    mount: BTreeMap<PathBuf, Vec<u32>>,
    net: BTreeMap<PathBuf, Vec<u32>>,
    unseen: Option<(u32, String)>,
}

impl Found {
    fn look_at(&mut self, reader: &Reader, pid: u32) {
        for (kind, into) in [("mnt", &mut self.mount), ("net", &mut self.net)] {
            let link = reader.root.proc(&format!("{pid}/ns/{kind}"));
            match attribute::link_target(&link) {
                Ok(Some(link)) if into.contains_key(&link) || into.len() < MOST_NAMESPACES => {
                    let pids = into.entry(link).or_default();
                    if pids.len() < WITNESSES {
                        pids.push(pid);
                    }
                }
                // It has ended meanwhile.
                Ok(_) => {}
                Err(error) if is_gone(&error.source) => {}
                Err(error) => {
                    self.unseen.get_or_insert((pid, error.source.to_string()));
                }
            }
        }
    }
}

/// A process that ended while it was read.
pub(super) fn is_gone(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::NOENT, Errno::SRCH, Errno::INVAL];
    gone.iter().any(|gone| error.raw_os_error() == Some(gone.raw_os_error()))
}

/// Network namespaces that a file keeps: name and file by namespace. Such a file is a mount of its
/// own whose root is the namespace (fs/nsfs.c).
fn kept(reader: &mut Reader) -> BTreeMap<PathBuf, (String, PathBuf)> {
    let mounts = reader.table(&reader.root.proc("self/mountinfo"));
    let mut kept = BTreeMap::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(3);
        let (Some(namespace), Some(place)) = (fields.next(), fields.next()) else { continue };
        if !namespace.starts_with("net:[") || kept.len() >= MOST_NAMESPACES {
            continue;
        }
        let place = super::mounts::unescape(place);
        let name = place.rsplit('/').next().unwrap_or_default().to_owned();
        let file = reader.root.directory().join(place.trim_start_matches('/'));
        kept.insert(PathBuf::from(namespace), (name, file));
    }
    kept
}

/// The first of these processes, for people.
pub(super) fn process(reader: &Reader, pids: &[u32]) -> String {
    let Some(pid) = pids.first() else { return "no process".to_owned() };
    vfio::User { pid: *pid, command: vfio::command(reader.root, *pid) }.to_string()
}
