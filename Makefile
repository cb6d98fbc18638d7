# make            build the native programs and the wheels of everything that is installed (asks PyPI)
# make install    install from them (as root); PREFIX=/usr/local, DESTDIR= for packagers
# make uninstall  remove exactly that; VMs, images and the configuration stay
# make check      tests/run
PREFIX ?= /usr/local
DESTDIR ?=
export PREFIX DESTDIR

.PHONY: all install uninstall check clean
all:
	@packaging/install build

install:
	@packaging/install install

uninstall:
	@packaging/install uninstall

check:
	@tests/run

clean:
	$(MAKE) -C service/native clean
	rm -rf build
