//! What a guest's memory is made of: huge pages, small ones, and those that the host keeps once.

use std::time::Duration;

use anyhow::Result;
use lab::Host;
use serde_json::Value;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(240);
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

fn memory(host: &Host, guest: &str) -> Result<Value> {
    let stats: Value = serde_json::from_str(&host.ok(&format!("assign stats {guest} -o json")))?;
    Ok(stats["memory"].clone())
}

fn free(host: &Host) -> u64 {
    let number = |name: &str| {
        let text = host.ok(&format!("cat {POOL}/{name}_hugepages"));
        text.trim().parse::<u64>().expect("a number")
    };
    number("free") - number("resv")
}

/// Huge pages are taken from the host's and come back, a device reaches them, and a guest that finds too
/// few is told before anything is touched.
#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_has_huge_pages_of_the_hosts_and_gives_them_back() -> Result<()> {
    let huge = "{size: 256MiB, pages: 2MiB}";
    let host = Host::intel()
        .igb(1)
        .file("root/policy.yaml", policy(2))
        .file("root/web.yaml", Guest::new("web", "hold").claim().memory(huge).to_string())
        .file(
            "root/db.yaml",
            Guest::new("db", "hold").memory("{size: 256MiB, pages: 2MiB, numa: 0}").to_string(),
        )
        .file(
            "root/giant.yaml",
            Guest::new("giant", "hold").memory("{size: 1GiB, pages: 1GiB}").to_string(),
        )
        .file(
            "root/two.yaml",
            Guest::new("two", "hold").memory("{size: 2GiB, pages: 1GiB}").to_string(),
        )
        .giant_page()
        .limit(Duration::from_secs(600))
        .boot()?;
    host.ok("assign apply -f policy.yaml");

    let refused = host.run("assign run -f web.yaml")?;
    let why = "web: needs 128 pages of 2MiB, and 0 of the 0 that this host has set apart are free. `echo 128 \
               > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages` sets enough apart";
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    let two = host.run("assign run -f two.yaml")?;
    let why = "two: needs 2 pages of 1GiB, and 1 of the 1 that this host has set apart is free";
    assert!(two.code == 1 && two.stderr.contains(why), "{}", two.stderr);
    // Nothing was taken for them.
    assert_eq!(host.ok("assign ps -o json").trim(), "[]");

    host.ok(&format!("echo 140 > {POOL}/nr_hugepages"));
    assert_eq!(free(&host), 140, "the host has memory for them");
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    assert_eq!(free(&host), 12);
    let has = memory(&host, "web")?;
    assert_eq!((&has["pages"], &has["ram_pinned_bytes"]), (&"2MiB".into(), &(256 << 20).into()));
    let page = host.ok("assign stats web");
    assert!(page.contains("256 MiB in pages of 2MiB"), "{page}");
    let refused = host.run("assign run -f db.yaml")?;
    let why = "db: needs 128 pages of 2MiB, and 12 of the 140 that this host has set apart on node 0 are \
               free. `echo 256 > /sys/devices/system/node/node0/";
    assert!(refused.code == 1 && refused.stderr.contains(why), "{}", refused.stderr);
    guests::stop(&web)?;
    assert_eq!(free(&host), 140);

    // All of one node, found at once.
    let db = guests::start(&host, "assign run -f db.yaml", GUEST_TIME)?;
    assert_eq!(free(&host), 12);
    guests::stop(&db)?;

    // One page is all of a guest's memory.
    let left = || host.ok("cat /sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages");
    let giant = guests::start(&host, "assign run -f giant.yaml", GUEST_TIME)?;
    assert_eq!((memory(&host, "giant")?["pages"].as_str(), left().trim()), (Some("1GiB"), "0"));
    let page = "awk '/^KernelPageSize: *1048576/ { found = 1 } END { exit !found }' \
                /proc/$(pidof assign-vmm)/smaps";
    host.ok(page);
    guests::stop(&giant)?;
    assert_eq!(left().trim(), "1");
    Ok(())
}

/// Two guests with the same kernel have much in common, which the host keeps once where their documents
/// let it. No device comes to such a guest.
#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn guests_that_may_share_memory_do_and_have_no_devices() -> Result<()> {
    let shared = "{size: 256MiB, pages: 4KiB, merge: true}";
    let host = Host::intel()
        .igb(1)
        .file("root/policy.yaml", policy(1))
        .file("root/one.yaml", Guest::new("one", "hold").memory(shared).to_string())
        .file("root/two.yaml", Guest::new("two", "hold").memory(shared).to_string())
        .file("root/claims.yaml", Guest::new("claims", "hold").memory(shared).claim().to_string())
        .limit(Duration::from_secs(600))
        .boot()?;
    let refused = host.run("assign validate policy.yaml claims.yaml")?;
    let why = "the guest claims a device, which pins all of its memory";
    assert!(refused.code == 2 && refused.stderr.contains(why), "{}", refused.stderr);

    host.ok("assign apply -f policy.yaml");
    let one = guests::start(&host, "assign run -f one.yaml", GUEST_TIME)?;
    let told = "one: its memory is shared with nobody, since this host's KSM does not run";
    one.wait_for(told, Duration::from_secs(1))?;
    let two = guests::start(&host, "assign run -f two.yaml", GUEST_TIME)?;
    let merged = |guest: &str| -> Result<u64> {
        Ok(memory(&host, guest)?["ram_merged_bytes"].as_u64().expect("KSM tells"))
    };
    assert_eq!((merged("one")?, merged("two")?), (0, 0));
    host.ok("cd /sys/kernel/mm/ksm && echo 5000 > pages_to_scan && echo 1 > run");
    let end = std::time::Instant::now() + Duration::from_secs(180);
    // The code of a kernel alone is more than that.
    while merged("one")? < 8 << 20 || merged("two")? < 8 << 20 {
        assert!(std::time::Instant::now() < end, "{:?}", (merged("one")?, merged("two")?));
        std::thread::sleep(Duration::from_secs(2));
    }
    let page = host.ok("assign stats two");
    assert!(page.contains("256 MiB in pages of 4KiB") && page.contains("kept once"), "{page}");

    let refused = host.run("assign attach one --pool lan")?;
    let why = "one: can have no device: one pins all of the guest's memory, which its document lets the host \
               share (merge: true). Write `merge: false`";
    assert!(refused.code != 0 && refused.stderr.contains(why), "{}", refused.stderr);
    guests::stop(&one)?;
    guests::stop(&two)?;
    Ok(())
}

/// The mappings of the only guest's process that come from one node of the host: how many pages they have
/// there, and how many elsewhere.
fn pages_from(host: &Host, node: u32) -> (u64, u64) {
    let maps = host.ok("cat /proc/$(pidof assign-vmm)/numa_maps");
    let bound = maps.lines().filter(|line| line.contains(&format!(" bind:{node} ")));
    let counts = bound.flat_map(str::split_whitespace).filter_map(|word| {
        let (at, pages) = word.strip_prefix('N')?.split_once('=')?;
        Some((at.parse::<u32>().ok()?, pages.parse::<u64>().ok()?))
    });
    counts.fold((0, 0), |(there, elsewhere), (at, pages)| match at == node {
        true => (there + pages, elsewhere),
        false => (there, elsewhere + pages),
    })
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_has_nodes_of_its_own_on_those_of_the_host() -> Result<()> {
    let nodes = "{nodes: [{size: 256MiB, cpus: \"0,2\", numa: 1}, {size: 128MiB, cpus: 1, numa: 0}, {size: \
                 64MiB, numa: 7}]}";
    let guest = Guest::new("wide", "hold lab.cpus").cpus(3).memory(nodes);
    let host = Host::intel()
        .nodes()
        .file("root/wide.yaml", guest.to_string())
        .limit(Duration::from_secs(500))
        .boot()?;
    let wide = guests::start(&host, "assign run -f wide.yaml", GUEST_TIME)?;
    let said = wide.output_so_far();
    assert!(
        said.contains("wide: its memory is to come from node 7, and this host has nodes 0, 1"),
        "{said}"
    );
    // Less what its kernel keeps for itself.
    let sizes = [
        ("node0: CPUs 0,2, ", 190..=256),
        ("node1: CPUs 1, ", 100..=128),
        ("node2: CPUs , ", 48..=64),
    ];
    for (node, expected) in sizes {
        let rest = said.split_once(node).unwrap_or_else(|| panic!("{said}")).1;
        let size = rest.split(' ').next().and_then(|size| size.parse().ok());
        assert!(size.is_some_and(|size: u64| expected.contains(&size)), "{node}: {said}");
    }
    let (there, elsewhere) = pages_from(&host, 1);
    assert!(there > 0 && elsewhere == 0, "{there} {elsewhere}");
    let (there, elsewhere) = pages_from(&host, 0);
    assert!(there > 0 && elsewhere == 0, "{there} {elsewhere}");
    guests::stop(&wide)?;
    Ok(())
}
