//! Whom the program runs as. Started by root it takes a user of its own, without groups and capabilities, before
//! it listens.

use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, geteuid, setgroups, setresgid, setresuid};

use super::sight::OWN;

/// The user that a package makes for it.
const USER: &str = "distci-web";

/// Its number where there is no such user: one that nobody has, outside of the ranges that are given out
/// (systemd's UIDS-GIDS lists 60578 to 61183 as unused).
const NOBODYS: u32 = 61_183;

/// Bytes of a token, at most.
const TOKEN_BYTES_MAX: u64 = 4096;

/// A token's shortest length, bytes: nobody guesses it.
const TOKEN_BYTES_MIN: usize = 16;

/// Takes a user of its own if it was started by root. `mount_owner` is who mounted: as that user, visitors must
/// have a token.
///
/// # Errors
/// For people: it would show more than others may see.
pub fn take(user: Option<&str>, with_token: bool, mount_owner: Option<u32>) -> Result<(), String> {
    let this = geteuid();
    if !this.is_root() {
        if user.is_some() {
            return Err("--user is for a web that is started by root, and this one is not".to_owned());
        }
        if !with_token && mount_owner == Some(this.as_raw()) {
            return Err(OWN.to_owned());
        }
        return Ok(());
    }
    if with_token && user.is_none() {
        return Err("--token-file shows what one user may read: say whose, with --user USER".to_owned());
    }
    let (uid, gid) = ids(user)?;
    if !with_token && mount_owner == Some(uid.as_raw()) {
        return Err(OWN.to_owned());
    }
    let failed = |what: &str, errno: nix::Error| format!("can't become user {uid} ({what}): {errno}");
    setgroups(&[]).map_err(|errno| failed("setgroups", errno))?;
    setresgid(gid, gid, gid).map_err(|errno| failed("setresgid", errno))?;
    setresuid(uid, uid, uid).map_err(|errno| failed("setresuid", errno))?;
    Ok(())
}

/// User and group that root becomes.
fn ids(user: Option<&str>) -> Result<(Uid, Gid), String> {
    let name = user.unwrap_or(USER);
    let found = User::from_name(name).map_err(|errno| format!("can't look for the user {name}: {errno}"))?;
    match found {
        Some(found) if found.uid.is_root() => Err(format!("--user {name}: that is root, who may read everything")),
        Some(found) => Ok((found.uid, found.gid)),
        None if user.is_some() => Err(format!("--user {name}: this node has no user of this name")),
        None => Ok((Uid::from_raw(NOBODYS), Gid::from_raw(NOBODYS))),
    }
}

/// Reads a token, or makes one where there is no such file: 32 random bytes in hexadecimal, for its owner alone.
///
/// # Errors
/// For people: it can't be read or made, others may read it, or it is too short.
pub fn token(file: &Path) -> Result<String, String> {
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    let said = |error: std::io::Error| format!("--token-file {}: {error}", file.display());
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    match made {
        Ok(mut made) => {
            let mut random = [0u8; 32];
            let source = PathBuf::from("/dev/urandom");
            std::fs::File::open(source)
                .and_then(|mut source| source.read_exact(&mut random))
                .map_err(said)?;
            let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            made.write_all(format!("{text}\n").as_bytes()).map_err(said)?;
            return Ok(text);
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(said(error)),
    }
    let opened = std::fs::File::open(file).map_err(said)?;
    let facts = opened.metadata().map_err(said)?;
    if facts.mode() & 0o077 != 0 {
        return Err(format!(
            "--token-file {}: others may read it; chmod 600 it",
            file.display()
        ));
    }
    let mut text = String::new();
    opened.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(said)?;
    let text = text.trim().to_owned();
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
    if text.len() < TOKEN_BYTES_MIN || !plain {
        return Err(format!(
            "--token-file {}: a token has {TOKEN_BYTES_MIN} letters, digits or -_.~ at least",
            file.display()
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_is_its_owners() {
        let folder = std::env::temp_dir().join(format!("web-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("token");
        let made = token(&file).unwrap();
        assert_eq!(made.len(), 64);
        assert_eq!(token(&file).unwrap(), made);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(token(&file).unwrap_err().contains("chmod 600"));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&file, "short\n").unwrap();
        assert!(token(&file).unwrap_err().contains("at least"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    /// "Started as the mount's owner it wants `--token-file`."
    #[test]
    fn nobody_shows_what_is_his_alone_without_a_token() {
        if geteuid().is_root() {
            assert!(take(None, true, None).unwrap_err().contains("--user"));
            assert!(take(Some("root"), false, None).unwrap_err().contains("root"));
            assert!(take(Some("no-such-user"), false, None).unwrap_err().contains("no user"));
            let nobody = User::from_name("nobody").unwrap().map(|nobody| nobody.uid.as_raw());
            assert!(
                take(Some("nobody"), false, nobody)
                    .unwrap_err()
                    .contains("--token-file")
            );
        } else {
            let me = Some(geteuid().as_raw());
            assert!(take(None, false, me).unwrap_err().contains("--token-file"));
            assert_eq!(take(None, true, me), Ok(()));
            assert!(take(Some("x"), false, None).unwrap_err().contains("--user"));
        }
    }
}
