//! What Teleport keeps under which keys: one table for everything that depends on it.
//!
//! A key is known by its longest prefix in the table. An entry that ends in `/` stands for everything below it; any other
//! is one key, and what lies below that key. A user's own items lie under the user's name, so they are told apart by what
//! follows the name. Nothing else of a key is taken apart: components are not escaped.
//!
//! A class says what the items are, not what happens to them: that is [`super::rules`]. A key that no entry stands for has
//! no class, and whoever must not let a secret through treats it as one. Pure.

use std::sync::LazyLock;

use super::prefixes::Prefixes;

/// Version of the table. Raised with every change of it, because a stream that selects by class covers something else then.
pub const VERSION: u32 = 1;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Certificate authorities, with their private keys.
    Authorities,
    /// What lets somebody join, or become a user: join tokens, static tokens, invitations.
    Tokens,
    /// Sessions of users in browser and applications, with their keys and bearer tokens.
    Sessions,
    /// Locks that deny access to users and nodes.
    Locks,
    /// Hashes of passwords.
    Passwords,
    /// Second factors: devices, their registrations, recovery codes.
    Mfa,
    /// Logins that are under way: challenges, requests to identity providers, counted attempts.
    Logins,
    /// Connectors to identity providers, with their client secrets and signing keys.
    Connectors,
    /// Access requests, their reviews and what plugins keep about them.
    Requests,
    /// Trusted, remote and leaf clusters, and tunnels to them.
    Clusters,
    /// Plugins and integrations with other services, with their credentials.
    Integrations,
    /// Bots and other machines that identify themselves.
    Bots,
    /// Trusted devices of users.
    Devices,
    /// Applications, databases, Kubernetes clusters, desktops and the like, as somebody defined them.
    Resources,
    /// What makes the cluster this cluster: its name, its stores, its scripts.
    Cluster,
    /// What updates agents.
    Updates,
    /// Heartbeats and other short-lived state that agents write again by themselves.
    Presence,
    /// Marks of migrations that were done.
    Migrations,
    /// Roles.
    Roles,
    /// Users, without what they log in with.
    Users,
    /// Access lists, their members and reviews.
    AccessLists,
    /// Settings of the cluster that identify nobody.
    Settings,
    /// Namespaces.
    Namespaces,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Authorities,
        Self::Tokens,
        Self::Sessions,
        Self::Locks,
        Self::Passwords,
        Self::Mfa,
        Self::Logins,
        Self::Connectors,
        Self::Requests,
        Self::Clusters,
        Self::Integrations,
        Self::Bots,
        Self::Devices,
        Self::Resources,
        Self::Cluster,
        Self::Updates,
        Self::Presence,
        Self::Migrations,
        Self::Roles,
        Self::Users,
        Self::AccessLists,
        Self::Settings,
        Self::Namespaces,
    ];

    /// Its name, as in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorities => "authorities",
            Self::Tokens => "tokens",
            Self::Sessions => "sessions",
            Self::Locks => "locks",
            Self::Passwords => "passwords",
            Self::Mfa => "mfa",
            Self::Logins => "logins",
            Self::Connectors => "connectors",
            Self::Requests => "requests",
            Self::Clusters => "clusters",
            Self::Integrations => "integrations",
            Self::Bots => "bots",
            Self::Devices => "devices",
            Self::Resources => "resources",
            Self::Cluster => "cluster",
            Self::Updates => "updates",
            Self::Presence => "presence",
            Self::Migrations => "migrations",
            Self::Roles => "roles",
            Self::Users => "users",
            Self::AccessLists => "access_lists",
            Self::Settings => "settings",
            Self::Namespaces => "namespaces",
        }
    }

    /// Whether its items hold, or may hold, what lets somebody in.
    pub fn is_secret(self) -> bool {
        match self {
            Self::Authorities
            | Self::Tokens
            | Self::Sessions
            | Self::Passwords
            | Self::Mfa
            | Self::Logins
            | Self::Connectors
            | Self::Clusters
            | Self::Integrations
            | Self::Bots
            | Self::Devices
            | Self::Resources
            | Self::Cluster => true,
            Self::Locks
            | Self::Requests
            | Self::Updates
            | Self::Presence
            | Self::Migrations
            | Self::Roles
            | Self::Users
            | Self::AccessLists
            | Self::Settings
            | Self::Namespaces => false,
        }
    }

    /// Whether a test cluster gets it.
    pub fn is_for_tests(self) -> bool {
        matches!(self, Self::Roles | Self::Users | Self::AccessLists | Self::Settings | Self::Namespaces)
    }
}

/// The class of a key, and how much of the key tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The class.
    pub class: Class,
    /// How many bytes of the key say so.
    pub len: usize,
}

/// Where the items of each class lie.
const TABLE: &[(&str, Class)] = &[
    (".flags/", Class::Migrations),
    ("/access_list/", Class::AccessLists),
    ("/access_list_member/", Class::AccessLists),
    ("/access_list_review/", Class::AccessLists),
    ("/access_request_promotions/", Class::Requests),
    ("/access_requests/", Class::Requests),
    ("/appServers/", Class::Presence),
    ("/applications/", Class::Resources),
    ("/apps/servers/", Class::Presence),
    ("/apps/sessions/", Class::Sessions),
    ("/authentication/preference", Class::Settings),
    ("/authorities/", Class::Authorities),
    ("/authservers/", Class::Presence),
    ("/auto_update_agent_plan", Class::Updates),
    ("/auto_update_agent_rollout", Class::Updates),
    ("/auto_update_config", Class::Updates),
    ("/auto_update_version", Class::Updates),
    ("/autoupdate_config", Class::Updates),
    ("/autoupdate_version", Class::Updates),
    ("/bot_instance/", Class::Bots),
    ("/cluster_configuration/", Class::Cluster),
    ("/cluster_configuration/maintenance", Class::Updates),
    ("/cluster_configuration/networking", Class::Settings),
    ("/cluster_configuration/session_recording", Class::Settings),
    ("/cluster_configuration/static_tokens", Class::Tokens),
    ("/cluster_configuration/ui", Class::Settings),
    ("/connection_diagnostic/", Class::Logins),
    ("/databaseServers/", Class::Presence),
    ("/databaseService/", Class::Presence),
    ("/databaseServices/", Class::Presence),
    ("/db/", Class::Resources),
    ("/devices/", Class::Devices),
    ("/discovery_config/", Class::Integrations),
    ("/dynamic_windows_desktop/", Class::Resources),
    ("/headless_authentication/", Class::Logins),
    ("/hostuser_interaction_time", Class::Presence),
    ("/instances/", Class::Presence),
    ("/integrations/", Class::Integrations),
    ("/kubeServers/", Class::Presence),
    ("/kubeServices/", Class::Presence),
    ("/kubernetes/", Class::Resources),
    ("/locks/", Class::Locks),
    ("/migrations/", Class::Migrations),
    ("/namespaces/", Class::Namespaces),
    ("/nodes/", Class::Presence),
    ("/plugin_data/", Class::Requests),
    ("/plugin_static_credentials/", Class::Integrations),
    ("/plugins/", Class::Integrations),
    ("/proxies/", Class::Presence),
    ("/relay_servers/", Class::Presence),
    ("/remoteClusters/", Class::Clusters),
    ("/reverseTunnels/", Class::Clusters),
    ("/roles/", Class::Roles),
    ("/saml_idp/", Class::Sessions),
    ("/semaphores/", Class::Presence),
    ("/serverInfos/", Class::Presence),
    ("/session_tracker/", Class::Presence),
    ("/snowflake/", Class::Sessions),
    ("/static_host_user/", Class::Resources),
    ("/tokens/", Class::Tokens),
    ("/trustedclusters/", Class::Clusters),
    ("/tunnelConnections/", Class::Presence),
    ("/usertoken/", Class::Tokens),
    // What follows the name of a user tells more; what tells nothing may be anything.
    (USERS, Class::Passwords),
    ("/web/connectors/", Class::Connectors),
    ("/web/sessions/", Class::Sessions),
    ("/web/tokens/", Class::Sessions),
    ("/webauthn/sessionData/", Class::Logins),
    ("/webauthn/users/", Class::Mfa),
    ("/windowsDesktop/", Class::Resources),
    ("/windowsDesktopServices/", Class::Presence),
    ("/windowsDesktops/", Class::Resources),
    ("/workload_identity/", Class::Bots),
];

const USERS: &str = "/web/users/";

/// Components that follow a connector's kind, or a user's name.
const OF_USERS: &[(&str, Class)] = &[
    ("params", Class::Users),
    ("pwd", Class::Passwords),
    ("mfa", Class::Mfa),
    ("hotp", Class::Mfa),
    ("webauthnlocalauth", Class::Mfa),
    ("recoverycodes", Class::Mfa),
    ("webauthnsessiondata", Class::Logins),
    ("u2fchallenge", Class::Logins),
    ("attempts", Class::Logins),
    ("recoveryattempts", Class::Logins),
    ("used_totp", Class::Logins),
    ("sessions", Class::Sessions),
];

static PREFIXES: LazyLock<Prefixes<(&str, Class)>> =
    LazyLock::new(|| Prefixes::new(TABLE.iter().map(|&(prefix, class)| (prefix.as_bytes().to_vec(), (prefix, class)))));

/// What is known of a key; `None` for one that no entry of the table stands for.
pub fn of(key: &[u8]) -> Option<Known> {
    let stands = |prefix: &str, len: usize| prefix.ends_with('/') || matches!(key.get(len), None | Some(b'/'));
    let (len, &(prefix, class)) = PREFIXES.of(key).find(|(len, (prefix, _))| stands(prefix, *len))?;
    Some(if prefix == USERS { of_user(key, len) } else { Known { class, len } })
}

/// Whether a key is a certificate authority: who finds one in a destination has another cluster before him.
pub fn is_authority(key: &[u8]) -> bool {
    of(key).is_some_and(|known| known.class == Class::Authorities)
}

/// An item of a user: `/web/users/<name>/<what>`, and for some further components. Only `<name>/params` and nothing behind
/// it is the user itself. A name that holds a `/` is not recognised, and its items count as secrets.
fn of_user(key: &[u8], len: usize) -> Known {
    let rest = &key[len..];
    let slash = |bytes: &[u8]| bytes.iter().position(|&byte| byte == b'/').unwrap_or(bytes.len());
    let name = slash(rest);
    let what = rest.get(name + 1..).unwrap_or_default();
    let (what, behind) = what.split_at(slash(what));
    let found = OF_USERS.iter().find(|(known, _)| known.as_bytes() == what);
    match found {
        Some((_, Class::Users)) if !behind.is_empty() || name == 0 => Known { class: Class::Passwords, len: key.len() },
        Some((_, class)) => Known { class: *class, len: len + name + 1 + what.len() },
        None => Known { class: Class::Passwords, len: key.len() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(key: &str) -> Option<Class> {
        of(key.as_bytes()).map(|known| known.class)
    }

    #[test]
    fn keys_are_of_the_class_that_teleport_keeps_there() {
        for (key, wanted) in [
            ("/authorities/host/example.com", Class::Authorities),
            ("/authorities/deactivated/user/leaf", Class::Authorities),
            ("/cluster_configuration/name", Class::Cluster),
            ("/cluster_configuration/audit", Class::Cluster),
            ("/cluster_configuration/static_tokens", Class::Tokens),
            ("/cluster_configuration/networking", Class::Settings),
            ("/authentication/preference/general", Class::Settings),
            ("/web/users/alice/params", Class::Users),
            ("/web/users/alice/pwd", Class::Passwords),
            ("/web/users/alice/mfa/4f1c", Class::Mfa),
            ("/web/users/alice/webauthnlocalauth", Class::Mfa),
            ("/web/users/alice/webauthnsessiondata/login", Class::Logins),
            ("/web/connectors/oidc/connectors/okta", Class::Connectors),
            ("/web/connectors/github/requests/4711", Class::Connectors),
            ("/nodes/default/4f1c", Class::Presence),
            ("/namespaces/default/params", Class::Namespaces),
            (".flags/migrated", Class::Migrations),
        ] {
            assert_eq!(class(key), Some(wanted), "{key}");
        }
    }

    #[test]
    fn a_key_that_only_looks_like_one_of_a_class_has_none() {
        for key in ["/nodes", "/authoritiesx/y", "/rolesx", "/scoped_token/x", "", "/", "/web/x", "/apps/foo"] {
            assert_eq!(class(key), None, "{key}");
        }
        assert_eq!(class("/cluster_configuration/networking_secret"), Some(Class::Cluster));
        assert_eq!(class("/cluster_configuration/ui/x"), Some(Class::Settings));
    }

    #[test]
    fn only_a_user_itself_is_no_secret_among_the_items_of_users() {
        for key in [
            "/web/users/alice",
            "/web/users/alice/",
            "/web/users/alice/params/x",
            "/web/users/alice/paramsx",
            "/web/users/alice/something_new",
            "/web/users/params",
            "/web/users//params",
            "/web/users/a/b/params",
            "/web/users/a/b/pwd",
        ] {
            assert!(class(key).unwrap().is_secret(), "{key}");
        }
    }

    #[test]
    fn the_documents_say_where_each_class_lies_and_whether_tests_get_it() {
        let text = include_str!("../../docs/filters.md");
        for class in Class::ALL {
            let row = format!("| `{}` |", class.name());
            let line = text.lines().find(|line| line.starts_with(&row)).unwrap_or_else(|| panic!("no row {row}"));
            for (prefix, _) in TABLE.iter().chain(OF_USERS).filter(|(_, known)| *known == class) {
                assert!(line.contains(&format!("`{prefix}`")), "{prefix} is not in {line}");
            }
            let (yes, last) = (class.is_for_tests(), line.rsplit('|').nth(1).unwrap());
            assert_eq!(last.contains("**yes**"), yes, "{line}");
        }
    }

    #[test]
    fn authorities_are_recognised() {
        assert!(is_authority(b"/authorities/host/example.com"));
        assert!(!is_authority(b"/authorities"));
        assert!(!is_authority(b"/roles/authorities/"));
    }

    #[test]
    fn no_secret_is_for_tests_and_names_are_distinct() {
        assert!(Class::ALL.iter().all(|class| !(class.is_secret() && class.is_for_tests())));
        let names: std::collections::BTreeSet<_> = Class::ALL.iter().map(|class| class.name()).collect();
        assert_eq!(names.len(), Class::ALL.len());
        for (index, (prefix, _)) in TABLE.iter().enumerate() {
            assert!(TABLE[..index].iter().all(|(other, _)| other != prefix), "{prefix} stands there twice");
        }
        for class in Class::ALL {
            let stands = TABLE.iter().chain(OF_USERS).any(|(_, known)| *known == class);
            assert!(stands, "nothing is {}", class.name());
        }
    }
}
