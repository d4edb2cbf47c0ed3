//! A vendor's variant of vfio-pci: chosen by the aliases of the kernel's modules, the most specific
//! one, by hand and by policy.

use sriov::recorded::simulation::Simulation;

use super::Host;

/// What `depmod` gathers: a variant for all VFs of this vendor, one for this very device, one for
/// another, and a driver of the host's.
const ALIASES: &str = "\
# Aliases extracted from modules themselves.
alias pci:v00008086d000010CAsv*sd*bc*sc*i* igbvf
alias vfio_pci:v00008086d*sv*sd*bc02sc*i* any_vfio_pci
alias vfio_pci:v00008086d000010CAsv*sd*bc*sc*i* igb_vfio_pci
alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci
";

fn host(aliases: &str) -> Host {
    Host::new(|directory| {
        let simulation = Simulation::lab(directory, 2);
        let tree = simulation.tree();
        tree.file("lib/modules/6.12.0-test/modules.alias", aliases);
        for driver in ["any_vfio_pci", "igb_vfio_pci", "mlx5_vfio_pci"] {
            tree.driver(driver);
        }
        simulation
    })
}

#[test]
fn bind_takes_the_most_specific_variant() {
    let host = host(ALIASES);
    host.done(&["bind", "01:10.0"]);
    assert_eq!(host.drivers(2), ["igb_vfio_pci!", "igbvf"]);
    host.done(&["release", "01:10.0"]);
    assert_eq!(host.drivers(2), ["igbvf", "igbvf"]);
    // Whoever names another one gets that.
    host.done(&["bind", "01:10.0", "--driver", "vfio-pci"]);
    assert_eq!(host.drivers(1), ["vfio-pci!"]);
}

#[test]
fn without_a_variant_for_the_device_it_is_vfio_pci() {
    let host = host(ALIASES.split("alias vfio_pci:v00008086").next().expect("a beginning"));
    host.done(&["bind", "01:10.0"]);
    assert_eq!(host.drivers(1), ["vfio-pci!"]);
}

#[test]
fn a_policy_that_leaves_the_driver_to_us_gets_the_variant_for_new_vfs_too() {
    let host = host(ALIASES);
    host.done(&["vf", "destroy", "eth0", "--yes"]);
    let before = host.snapshot();
    let file = host.pool("driver: auto");
    let plan = host.done(&["plan", "-f", &file]);
    assert!(plan.contains("igb_vfio_pci"), "{plan}");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(2), ["igb_vfio_pci!", "igb_vfio_pci!"]);
    assert!(host.done(&["apply", "-f", &file]).contains("nothing to do"));
    host.done(&["diff", "-f", &file]);
    host.done(&["remove", "edge"]);
    assert_eq!(host.snapshot(), before);
}
