//! A guest's process is shut in: what it is, and what it cannot do.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
/// What a process that is shut in goes on doing.
const NEEDED: [&str; 7] = [
    "nothing",
    "a thread",
    "memory",
    "a counter",
    "a vCPU: an interrupt's counter",
    "a disk's reader: nothing",
    "a disk's reader: memory",
];

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn nothing_of_the_host_is_in_reach_of_a_guests_process() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .file("root/policy.yaml", policy(1))
        .file("root/web.yaml", Guest::new("web", "hold").claim().to_string())
        .file("root/db.yaml", Guest::new("db", "hold").to_string())
        .limit(Duration::from_secs(400))
        .boot()?;
    host.ok("assign apply -f policy.yaml");

    // Somebody with the same walls around them tries to leave.
    let tried = host.ok("lab-walls 2>/dev/null");
    let outcomes: Vec<(&str, &str)> =
        tried.lines().filter_map(|line| line.rsplit_once(": ")).collect();
    assert!(outcomes.len() > 30, "{tried}");
    for (what, outcome) in outcomes {
        assert_eq!(NEEDED.contains(&what), outcome == "DONE", "{what}: {outcome}");
    }

    // Two guests: neither is root, nor the other's user, nor sees a file, a process or a network.
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let db = guests::start(&host, "assign run -f db.yaml", GUEST_TIME)?;
    let pids = host.ok("pidof assign-vmm");
    let pids: Vec<&str> = pids.split_whitespace().collect();
    assert_eq!(pids.len(), 2);
    let mut users = Vec::new();
    for pid in &pids {
        let status = host.ok(&format!("cat /proc/{pid}/status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
            line.unwrap_or_else(|| panic!("no {name}: {status}")).trim().to_owned()
        };
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("Groups"), "");
        assert!(field("NSpid").ends_with("\t1"), "the first of its own processes: {status}");
        users.push(field("Uid"));
        assert_eq!(host.ok(&format!("ls -A /proc/{pid}/root")), "");
        let networks = host.ok(&format!("sed 1,2d /proc/{pid}/net/dev"));
        assert!(networks.trim_start().starts_with("lo:") && networks.lines().count() == 1);
        for space in ["mnt", "net", "ipc", "uts", "pid"] {
            let of = |pid: &str| host.ok(&format!("readlink /proc/{pid}/ns/{space}"));
            assert_ne!(of(pid), of("1"), "{space}");
        }
        // Every thread has its list, and what a vCPU has is one more.
        let lists = format!(
            "for task in /proc/{pid}/task/*; do echo $(cat $task/comm) $(grep filters $task/status); done"
        );
        let lists = host.ok(&lists);
        let count = |thread: &str| {
            let line = lists.lines().find(|line| line.starts_with(thread)).expect("its line");
            line.rsplit(' ').next().expect("a number").to_owned()
        };
        assert_eq!(
            (count("vcpu0"), count("assign-vmm"), count("control")),
            ("4".to_owned(), "4".to_owned(), "3".to_owned()),
            "{lists}"
        );
    }
    assert_ne!(users[0], users[1]);
    let first = |user: &String| user.split_whitespace().next().and_then(|id| id.parse().ok());
    assert!(users.iter().all(|user| first(user) > Some(0x7000_0000_u32)), "{users:?}");
    guests::stop(&db)?;
    guests::stop(&web)?;

    // Without, by request, and said aloud.
    let open = guests::start(&host, "assign run -f web.yaml --no-sandbox", GUEST_TIME)?;
    assert!(open.output_so_far().contains("web: NO SANDBOX"), "{}", open.output_so_far());
    let status = host.ok("cat /proc/$(pidof assign-vmm)/status");
    assert!(status.contains("Seccomp:\t0") && status.contains("Uid:\t0\t"), "{status}");
    guests::stop(&open)?;
    Ok(())
}
