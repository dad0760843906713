"""Teachers: present while training, never in what ships."""
