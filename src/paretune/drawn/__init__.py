"""Pictures that paretune draws itself: the tasks of the offline suite, and the digits of the demo."""
