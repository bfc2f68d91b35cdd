"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28×28 grey, in ten classes."""

from cnnext.data.fashion_mnist import TEXT_LABELS, FashionMNIST, Loader, text_labels
from cnnext.data.files import DataError

__all__ = ["TEXT_LABELS", "DataError", "FashionMNIST", "Loader", "text_labels"]
