//! A world of its own: namespaces in which AWS' names and addresses are this machine.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::server::{self, Authority};
use crate::services::Desk;

/// Prepares `$1` as the world's files and then becomes the rest of the arguments. The addresses are
/// those of the metadata services; the last one only where there is IPv6.
const SET_UP: &str = r#"
set -eu
dir=$1
shift
ip link set lo up
for address in 169.254.169.254 169.254.170.2 169.254.170.23; do
  ip address add "$address/32" dev lo
done
ip -6 address add fd00:ec2::254/128 dev lo 2>/dev/null || true
for file in resolv.conf nsswitch.conf hosts passwd; do
  mount --bind "$dir/etc/$file" "/etc/$file"
done
mount -t tmpfs none /etc/ssl/certs
exec "$@"
"#;

/// A command that runs `program` in such a world, whose files are in `dir`.
pub(crate) fn inside(dir: &Path, program: &Path) -> Command {
    let etc = dir.join("etc");
    std::fs::create_dir_all(&etc).unwrap();
    let home = dir.join("passwd");
    for (name, text) in [
        ("resolv.conf", "nameserver 127.0.0.1\noptions attempts:1\n".to_owned()),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
        ("hosts", "127.0.0.1 localhost\n".to_owned()),
        ("passwd", format!("root:x:0:0:root:{}:/bin/sh\n", home.display())),
    ] {
        std::fs::write(etc.join(name), text).unwrap();
    }
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--net", "--mount", "--", "sh", "-c", SET_UP, "sh"])
        .arg(dir)
        .arg(program);
    command
}

/// Why no such world can be made here, if so.
pub(crate) fn missing() -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let output = match inside(dir.path(), Path::new("true")).output() {
        Ok(output) => output,
        Err(error) => return Some(format!("`unshare` cannot be run: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    (!output.status.success()).then(|| {
        format!(
            "this machine does not let us make user, network and mount namespaces with files and \
             addresses of our own, by `unshare`, `ip` and `mount`; the suite cannot run here: {said}"
        )
    })
}

/// The servers of this world.
pub(crate) fn servers(dir: &Path) -> Arc<Desk> {
    let (public, private) = (Authority::new(), Authority::new());
    std::fs::write("/etc/ssl/certs/ca-certificates.crt", public.pem()).unwrap();
    std::fs::write(dir.join("private.pem"), private.pem()).unwrap();
    let desk = Arc::new(Desk::new(public, private));
    server::start(&desk);
    desk
}
