# See LICENSE file for copyright and license details.

# Who may connect to the socket
#group=kvm
#socket=/run/qemu-pr-helper.sock

# Where messages go
#error_log=/var/log/prhelper.log
