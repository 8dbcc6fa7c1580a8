//! A root file system out of Debian packages, for machines that reach a package mirror and no image registry.
//!
//! apt is told that nothing is installed, so it resolves everything the packages need; each package is
//! downloaded once into the cache. Nothing is installed on this machine and no package script runs here.

use crate::cache::{Cache, Scratch};
use crate::command::{is_debian, is_root, output, quiet};
use crate::{Progress, SetupError};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The same list that the Dockerfile installs.
pub const LIST: &str = include_str!("../../../agent-image/packages.txt");

/// Distributions' own packages win over those of other sources on this machine, whatever their versions.
const PREFERENCES: &str = "Package: *\nPin: release o=Debian\nPin-Priority: 990\n\n\
                           Package: *\nPin: release o=Ubuntu\nPin-Priority: 990\n";

/// Unpacks one package after the other (`sh -c THIS -- ROOT SCRATCH DEB…`). Through a file, because a shell pipe
/// hides the failure of its first half. Directories that are links (merged /usr) stay links.
const UNPACK: &str = r#"set -eu
root=$1 part=$2/part.tar; shift 2
for deb; do
    dpkg-deb --fsys-tarfile "$deb" > "$part"
    tar -x -p -f "$part" -C "$root" --keep-directory-symlink --no-same-owner \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/info/*' \
        --exclude='./usr/share/locale/*' --exclude='./usr/share/lintian/*' --exclude='./usr/share/perl/*/pod/*'
done
rm -f "$part""#;

/// Makes the root file system in `scratch` and returns its directory. Owners are whoever runs this.
pub async fn unpack(cache: &Cache, scratch: &Scratch, progress: &dyn Progress) -> Result<PathBuf, SetupError> {
    if !is_debian() {
        return Err(SetupError::Unbuildable(
            "the engine reaches no image registry, and this machine has no apt-get and dpkg-deb to build it without one"
                .into(),
        ));
    }
    let apt = Apt::new(cache, scratch)?;
    let names = apt.available(progress).await?;
    let archives = apt.fetch(&names, progress).await?;
    progress.detail(&format!("unpacking {} packages", archives.len()));
    let root = scratch.path().join("root");
    merged_usr(&root).map_err(SetupError::file(&root))?;
    let mut shell = quiet("sh");
    shell.args(["-c", UNPACK, "--"]).arg(&root).arg(scratch.path()).args(&archives);
    output(&mut shell).await?;
    Ok(root)
}

/// Packages that still ship `/bin/x` must land in `/usr/bin/x`.
fn merged_usr(root: &Path) -> std::io::Result<()> {
    for dir in ["bin", "lib", "lib64", "sbin"] {
        std::fs::create_dir_all(root.join("usr").join(dir))?;
        std::os::unix::fs::symlink(Path::new("usr").join(dir), root.join(dir))?;
    }
    Ok(())
}

struct Apt<'a> {
    archives: PathBuf,
    scratch: &'a Scratch,
}

impl<'a> Apt<'a> {
    fn new(cache: &Cache, scratch: &'a Scratch) -> Result<Self, SetupError> {
        let archives = cache.dir.join("debs");
        let partial = archives.join("partial");
        std::fs::create_dir_all(&partial).map_err(SetupError::file(&partial))?;
        scratch.write("status", b"")?;
        scratch.write("preferences", PREFERENCES.as_bytes())?;
        Ok(Self { archives, scratch })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = quiet(program);
        let at = |name: &str| self.scratch.path().join(name).display().to_string();
        for option in [
            format!("Dir::State::status={}", at("status")),
            format!("Dir::State::extended_states={}", at("extended_states")),
            format!("Dir::Etc::preferences={}", at("preferences")),
            format!("Dir::Cache::archives={}", self.archives.display()),
            "APT::Install-Recommends=false".into(),
            // The cache is in someone's home directory, which apt's own user need not be able to enter.
            "APT::Sandbox::User=root".into(),
            // Our lock is held; apt's would ask for root.
            "Debug::NoLocking=true".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    /// The packages of the list that there are. Asks the mirror only when a needed one is unknown here.
    async fn available(&self, progress: &dyn Progress) -> Result<Vec<&'static str>, SetupError> {
        let mut known = self.known().await?;
        if missing(&known).next().is_some() && is_root() {
            progress.detail("apt-get update");
            // One unreachable source of several makes this fail; whether it matters is seen below.
            let _ = output(quiet("apt-get").args(["-qq", "update"])).await;
            known = self.known().await?;
        }
        let missing: Vec<&str> = missing(&known).collect();
        if !missing.is_empty() {
            return Err(SetupError::Unbuildable(format!(
                "apt knows no package {}; run apt-get update as root",
                missing.join(", ")
            )));
        }
        Ok(list().map(|(name, _)| name).filter(|name| known.contains(*name)).collect())
    }

    async fn known(&self) -> Result<HashSet<String>, SetupError> {
        let names = output(self.command("apt-cache").arg("pkgnames")).await?;
        Ok(String::from_utf8_lossy(&names).lines().map(str::to_owned).collect())
    }

    /// The archive files of these packages and of all they need.
    async fn fetch(&self, names: &[&str], progress: &dyn Progress) -> Result<Vec<PathBuf>, SetupError> {
        let plan = output(self.command("apt-get").args(["-qq", "--simulate", "install"]).args(names)).await?;
        let plan = String::from_utf8_lossy(&plan);
        let files: Vec<PathBuf> = plan.lines().filter_map(archive_name).map(|name| self.archives.join(name)).collect();
        let absent = || files.iter().filter(|file| !file.exists()).collect::<Vec<_>>();
        if !absent().is_empty() {
            progress.detail(&format!("downloading {} packages, once", absent().len()));
            let mut download = self.command("apt-get");
            download.args(["-qq", "-y", "--download-only", "install"]).args(names);
            output(&mut download).await?;
        }
        match absent().first() {
            None if !files.is_empty() => Ok(files),
            absent => Err(SetupError::Command {
                command: "apt-get --download-only".into(),
                reason: absent.map_or("it plans nothing".into(), |file| format!("{} is missing", file.display())),
            }),
        }
    }
}

/// The list's packages, and whether each is needed.
fn list() -> impl Iterator<Item = (&'static str, bool)> {
    let lines = LIST.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.strip_suffix('?').map_or((line, true), |name| (name, false)))
}

fn missing(known: &HashSet<String>) -> impl Iterator<Item = &'static str> {
    list().filter(|(name, needed)| *needed && !known.contains(*name)).map(|(name, _)| name)
}

/// `Inst name (version origin [architecture])` names the file `name_version_architecture.deb`, in which a colon
/// of the version is written `%3a`.
fn archive_name(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let (version, rest) = rest.split_once('(')?.1.split_once(' ')?;
    let architecture = rest.split_once(')')?.0.rsplit_once('[')?.1.strip_suffix(']')?;
    Some(format!("{name}_{}_{architecture}.deb", version.replace(':', "%3a")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planned_package_names_its_file() {
        let name = |line| archive_name(line).unwrap();
        assert_eq!(name("Inst git (1:2.39.5-0+deb12u3 Debian:12 [amd64])"), "git_1%3a2.39.5-0+deb12u3_amd64.deb");
        assert_eq!(name("Inst tzdata (2026f-0 A:12/x, B:12/y [all]) []"), "tzdata_2026f-0_all.deb");
        assert!(archive_name("Conf git (1:2 Debian:12 [amd64])").is_none());
    }

    #[test]
    fn the_list_names_packages_and_nothing_else() {
        assert!(list().any(|entry| entry == ("python3", true)));
        assert!(list().any(|entry| entry == ("python3-distutils", false)));
        assert!(list().all(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))));
    }
}
