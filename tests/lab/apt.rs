//! Packages of the distribution this machine runs, without touching its package state.
//!
//! apt is given lists, caches and sources of our own, in the cache folder. So downloading needs no
//! root, and a distribution's extra archive (Debian's backports) is seen by us alone. The mirror is
//! the one this machine already uses; nothing here knows a host's name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::Cache;
use crate::progress;
use crate::run::{capture, line};

/// The distribution, as far as packages differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian 12 or newer.
    Debian,
    /// Ubuntu 24.04 or newer.
    Ubuntu,
}

/// apt with our own state.
pub struct Apt {
    /// Which archive's packages.
    pub family: Family,
    codename: String,
    options: Vec<String>,
}

impl Apt {
    /// Prepares apt and fetches the package lists. Fails, saying what is missing, where the
    /// distribution is none of those we know.
    pub fn open(cache: &Cache) -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let (family, codename) = identify(&release).with_context(|| {
            "this is neither Debian nor Ubuntu (see /etc/os-release), from whose archives the lab \
             takes what it needs: qemu-system-x86 (8.0 or newer), linux-image-amd64 and \
             busybox-static. Run it in a container of Debian 12 or newer"
        })?;
        let root = cache.path("apt");
        for folder in ["lists/partial", "archives/partial", "parts"] {
            fs::create_dir_all(root.join(folder)).with_context(|| format!("{}", root.display()))?;
        }
        let sources = root.join("sources.list");
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        let options = vec![
            option("Dir::Etc::SourceList", &sources),
            option("Dir::Etc::SourceParts", &root.join("parts")),
            option("Dir::State::Lists", &root.join("lists")),
            option("Dir::Cache", &root),
            // The cache may be in a home folder, which apt's own download user cannot enter.
            "APT::Sandbox::User=".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "Acquire::Retries=3".into(),
            "DPkg::Lock::Timeout=120".into(),
        ];
        let apt = Apt { family, codename, options };
        fs::write(&sources, apt.sources()?)
            .with_context(|| format!("cannot write {}", sources.display()))?;
        let step = progress::step("fetching the package lists");
        capture(apt.command("apt-get").arg("update"))?;
        step.done();
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// Our sources: this machine's own for the distribution's main archive, and its backports.
    fn sources(&self) -> Result<String> {
        // What was fetched before knows its origin, so that other people's archives of the same
        // suite name are told apart. Where nothing was ever fetched, the names must do.
        let ask = |format: &str, options: &[&str]| {
            capture(Command::new("apt-get").env("LC_ALL", "C").args(options).args([
                "indextargets",
                "--format",
                format,
                "Created-By: Packages",
            ]))
        };
        let with_origin = ask("$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)", &[])?;
        let by_name = ask(
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            &["-o", "APT::Get::IndexTargets::ReleaseInfo=false"],
        )?;
        let mut lines = self.select(&with_origin, true);
        if lines.is_empty() {
            lines = self.select(&by_name, false);
        }
        ensure!(
            !lines.is_empty(),
            "apt knows no archive of {} main: check /etc/apt/sources.list and sources.list.d",
            self.codename
        );
        Ok(lines.into_iter().map(|line| format!("deb {line}\n")).collect())
    }

    fn select(&self, targets: &str, with_origin: bool) -> BTreeSet<String> {
        let (origin, keyring) = match self.family {
            Family::Debian => ("Debian", "/usr/share/keyrings/debian-archive-keyring.gpg"),
            Family::Ubuntu => ("Ubuntu", "/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
        };
        // Newer releases trust a key for the archive that names it only, older ones for all.
        let trust = match Path::new(keyring).exists() {
            true => format!("[signed-by={keyring}] "),
            false => String::new(),
        };
        let backports = format!("{}-backports", self.codename);
        let mut lines = BTreeSet::new();
        for target in targets.lines() {
            let fields: Vec<&str> = target.split_whitespace().collect();
            let [uri, release, component, rest @ ..] = fields.as_slice() else { continue };
            let ours = *release == self.codename
                || ["-updates", "-security", "-backports"]
                    .iter()
                    .any(|suffix| release.strip_suffix(suffix) == Some(&self.codename));
            if !ours || *component != "main" || (with_origin && rest != [origin]) {
                continue;
            }
            lines.insert(format!("{trust}{uri} {release} main"));
            if self.family == Family::Debian && *release == self.codename {
                lines.insert(format!("{trust}{uri} {backports} main"));
            }
        }
        lines
    }

    /// How the distribution calls this release.
    pub fn codename(&self) -> &str {
        &self.codename
    }

    /// Its archive without the backports, as lines of a sources.list.
    pub fn own_sources(&self) -> Result<Vec<String>> {
        let backports = format!(" {}-backports ", self.codename);
        let sources = self.sources()?;
        let lines = sources.lines().filter(|line| !line.contains(&backports));
        Ok(lines.map(str::to_owned).collect())
    }

    /// By which proxies this machine's apt reaches archives, as options of apt.
    pub fn proxies(&self) -> Result<Vec<String>> {
        let all = capture(Command::new("apt-config").env("LC_ALL", "C").arg("dump"))?;
        Ok(proxies(&all))
    }

    /// The names of all packages, so that the newest of a series can be chosen.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = capture(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// A package, and all packages of libraries that it needs directly or not.
    pub fn libraries_for(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.command("apt-cache");
        command.args(["depends", "--recurse", "--no-recommends", "--no-suggests"]);
        command.args(["--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", package]);
        let text = capture(&mut command)?;
        // Packages begin their lines; what each needs is indented below, and names that several
        // provide are in angle brackets.
        let names = text.lines().filter(|line| {
            line.starts_with("lib") && line.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let libraries: BTreeSet<&str> = names.collect();
        Ok(std::iter::once(package).chain(libraries).map(str::to_owned).collect())
    }

    /// Downloads a package into `folder`, unless the same version is there already; returns the
    /// file.
    pub fn download(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        let uri = capture(self.command("apt-get").args(["--print-uris", "download", package]))
            .with_context(|| format!("the archive has no package {package}"))?;
        // 'URI' FILE SIZE HASH
        let fields: Vec<&str> = uri.split_whitespace().collect();
        let [_, name, size, ..] = fields.as_slice() else {
            bail!("apt says nothing of where package {package} is: {uri:?}");
        };
        let size: u64 = size.parse().with_context(|| format!("size of {package}: {size:?}"))?;
        let file = folder.join(name);
        // apt checks the hash of what it downloads and leaves partial files under another name.
        if file.metadata().is_ok_and(|metadata| metadata.len() == size) {
            return Ok(file);
        }
        let step = progress::step(format!("downloading {package} ({} MB)", size / 1_000_000 + 1));
        capture(self.command("apt-get").args(["download", package]).current_dir(folder))?;
        step.done();
        ensure!(file.is_file(), "apt did not put {package} at {}", file.display());
        Ok(file)
    }

    /// The command that installs packages on this machine.
    fn install_command(&self, packages: &[&str], release: Option<&str>) -> Command {
        let mut command = self.command("apt-get");
        command.args(["install", "--yes", "--no-install-recommends"]);
        if let Some(release) = release {
            command.args(["--target-release", release]);
        }
        command.args(packages);
        command
    }

    /// Installs packages on this machine, and QEMU if its package is named. Without root it says
    /// with which commands root would.
    pub fn install(&self, packages: &[&str], qemu: Option<&str>) -> Result<()> {
        // The only release we know whose own QEMU is too old. Nothing else is taken from there.
        let backports = (self.codename == "bookworm").then_some("bookworm-backports");
        let mut commands = Vec::new();
        if !packages.is_empty() {
            commands.push(self.install_command(packages, None));
        }
        commands.extend(qemu.map(|package| self.install_command(&[package], backports)));
        let names: Vec<&str> = packages.iter().copied().chain(qemu).collect();
        if !rustix::process::geteuid().is_root() {
            let lines: String =
                commands.iter().map(|command| format!("    sudo {}\n", line(command))).collect();
            bail!(
                "only root can install {}. Run this and then the same again:\n\n{lines}",
                names.join(", ")
            );
        }
        let step = progress::step(format!("installing {}", names.join(", ")));
        for command in &mut commands {
            capture(command)?;
        }
        step.done();
        Ok(())
    }
}

/// The options of a dump that name a proxy.
fn proxies(dump: &str) -> Vec<String> {
    let of_archives = ["Acquire::http::Proxy", "Acquire::https::Proxy"];
    dump.lines()
        .filter(|line| of_archives.iter().any(|name| line.starts_with(name)))
        .filter(|line| !line.ends_with(" \"\";"))
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}

/// Which of these packages are not installed on this machine. None where there is no dpkg.
pub fn not_installed<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"]).args(packages);
    // It also fails where a package is not known at all, having listed the others.
    let Ok(output) = query.output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let installed = |name: &&str| text.lines().any(|line| line == format!("{name} installed"));
    packages.iter().filter(|name| !installed(name)).copied().collect()
}

/// Unpacks a package into a folder.
pub fn unpack(package: &Path, into: &Path) -> Result<()> {
    capture(Command::new("dpkg-deb").arg("--extract").arg(package).arg(into))?;
    Ok(())
}

/// Reads family and codename from the content of /etc/os-release.
fn identify(release: &str) -> Option<(Family, String)> {
    let field = |name: &str| {
        release.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix('=')?;
            Some(value.trim_matches('"').to_owned())
        })
    };
    let id = field("ID")?;
    let like = field("ID_LIKE").unwrap_or_default();
    let (family, codename) = if id == "debian" {
        (Family::Debian, field("VERSION_CODENAME")?)
    } else if id == "ubuntu" || like.split(' ').any(|name| name == "ubuntu") {
        (Family::Ubuntu, field("UBUNTU_CODENAME").or_else(|| field("VERSION_CODENAME"))?)
    } else {
        return None;
    };
    Some((family, codename))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_told_apart() {
        let debian = "PRETTY_NAME=\"x\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(identify(debian), Some((Family::Debian, "bookworm".into())));
        let mint = "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nUBUNTU_CODENAME=noble\n";
        assert_eq!(identify(mint), Some((Family::Ubuntu, "noble".into())));
        assert_eq!(identify("ID=fedora\nVERSION_CODENAME=\"\"\n"), None);
    }

    #[test]
    fn a_machines_proxies_are_found() {
        let dump = "Acquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://proxy:3142\";\n\
                    Acquire::http::Proxy::mirror \"DIRECT\";\nAcquire::https::Proxy \"\";\n\
                    Acquire::http::Pipeline-Depth \"0\";\n";
        let expected = [
            "Acquire::http::Proxy \"http://proxy:3142\"",
            "Acquire::http::Proxy::mirror \"DIRECT\"",
        ];
        assert_eq!(proxies(dump), expected);
    }

    #[test]
    fn only_the_distributions_own_archive_is_used() {
        let apt = Apt { family: Family::Debian, codename: "bookworm".into(), options: Vec::new() };
        let targets = "http://m/debian/ bookworm main Debian\n\
                       http://m/debian/ bookworm contrib Debian\n\
                       http://s/ bookworm-security main Debian\n\
                       http://h/ bookworm main HashiCorp\n\
                       http://p/ bookworm-pgdg main PGDG\n";
        let lines = apt.select(targets, true);
        // Without the part that names this machine's keyring.
        let lines: Vec<&str> = lines
            .iter()
            .map(|line| line.split_once("] ").map_or(&**line, |(_, rest)| rest))
            .collect();
        assert_eq!(
            lines,
            [
                "http://m/debian/ bookworm main",
                "http://m/debian/ bookworm-backports main",
                "http://s/ bookworm-security main",
            ]
        );
    }
}
