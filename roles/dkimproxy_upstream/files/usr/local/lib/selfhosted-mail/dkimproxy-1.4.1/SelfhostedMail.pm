# SPDX-License-Identifier: GPL-3.0-or-later
# Loaded before DKIMproxy's program. Adds a Net::Server hook to its class: `start` notifies systemd when the port is
# open; `check` checks the configuration when it has been read, and exits.
package SelfhostedMail;

use strict;
use warnings;
use Socket qw(AF_UNIX SOCK_DGRAM pack_sockaddr_un);

sub import {
    my (undef, $what) = @_;
    no warnings 'once';
    *MySmtpProxyServer::post_configure_hook = \&end_after_check if $what eq 'check';
    *MySmtpProxyServer::pre_loop_hook = \&tell_systemd if $what eq 'start';
    return;
}

# sd_notify(3)
sub tell_systemd {
    my $path = $ENV{NOTIFY_SOCKET} or return;
    $path =~ s/^\@/\0/;
    socket my $socket, AF_UNIX, SOCK_DGRAM, 0 or die "no socket for systemd: $!\n";
    send $socket, 'READY=1', 0, pack_sockaddr_un($path) or die "systemd cannot be told: $!\n";
    return;
}

sub end_after_check {
    my ($server) = @_;
    my @found = problems($server);
    print {*STDERR} map { "$_\n" } @found;
    exit(@found ? 1 : 0);
}

# Problems of the configuration, one sentence each.
sub problems {
    my ($server) = @_;
    my %option;
    $server->options(\%option);
    return 'reject_error is off: mail that cannot be signed would be sent unsigned' if !${ $option{reject_error} };
    my $file = ${ $option{sender_map} } or return 'sender_map is missing: it assigns a key to each domain';
    my @found;
    for my $domain (sort grep { $_ ne q{.} } keys %{ LookupMap->load($file)->{map} }) {
        my $signed = eval { probe("check\@$domain") };
        push @found, "$file: $domain: $@" if $@;
        push @found, "$file: $domain: signed as $signed" if !$@ && $signed ne $domain;
    }
    # RFC 2606 section 2: nobody has a domain below .invalid.
    eval { probe('check@foreign.invalid') } and push @found, "$file: mail from other domains is not refused";
    chomp @found;
    return @found;
}

# The domain that signs a message from the address, 'none' if it would be passed on unsigned. Dies if DKIMproxy would
# answer 450.
sub probe {
    my ($address) = @_;
    my $signer = Mail::DKIM::Signer->new(Policy => \&main::signer_policy);
    $signer->PRINT("From: $address\r\n\r\n.\r\n");
    $signer->CLOSE;
    return $signer->signature ? $signer->signature->domain : 'none';
}

1;
