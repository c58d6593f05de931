//! A small disk of its own under a folder: a tmpfs, in a mount namespace that lives as long as the test does.
//!
//! Root needs nothing but the namespace; anybody else makes one in which he is root. Nothing is left mounted, not even by a
//! test that is killed: the namespace is held by a process that ends when its input does.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mounted tmpfs.
pub struct SmallDisk {
    folder: PathBuf,
    holder: Child,
    /// What a program joins: the mount namespace alone, or the user namespace that it belongs to, too.
    joins: &'static [&'static str],
}

impl SmallDisk {
    /// Mounts a disk of so many MiB at a folder, which must be there.
    pub fn mount(folder: &Path, mib: u32) -> Self {
        let ways: [(&str, &'static [&'static str]); 2] =
            [("-m", &["-m"]), ("-Urm", &["-U", "-m", "--preserve-credentials"])];
        let mut refused = Vec::new();
        for (options, joins) in ways {
            let script = format!("mount -t tmpfs -o size={mib}m,mode=700 tmpfs \"$0\" && echo mounted && exec cat");
            let mut command = Command::new("unshare");
            command.args([options, "sh", "-c", &script]).arg(folder);
            let mut holder =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut answer = String::new();
            BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
            if answer.trim() == "mounted" {
                return Self { folder: folder.to_owned(), holder, joins };
            }
            let mut why = String::new();
            holder.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            holder.wait().unwrap();
            refused.push(format!("`unshare {options}` says {:?}", why.trim()));
        }
        panic!(
            "a disk of {mib} MiB cannot be mounted here, which this test needs: run it as root, or where users may make \
             namespaces; {}",
            refused.join("; ")
        );
    }

    /// Words before a program's, so that it sees the disk.
    pub fn within(&self) -> Vec<String> {
        let words = ["nsenter", "-t"].into_iter().map(str::to_owned);
        words.chain([self.holder.id().to_string()]).chain(self.joins.iter().map(|word| (*word).to_owned())).collect()
    }

    /// The disk's folder as the test reaches it.
    pub fn path(&self) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(self.folder.strip_prefix("/").unwrap())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        drop(self.holder.wait());
    }
}
