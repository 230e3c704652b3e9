"""`classifier study`: GANs, synthetic images and an ablation for each number of minority images, on one page."""
