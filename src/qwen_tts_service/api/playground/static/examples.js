// Phrases to start with: [language of the phrase, its name, the phrase].

export const EXAMPLES = [
  ["ru", "Помощник", "Здравствуйте! Ваш заказ уже в пути, курьер будет у вас через пятнадцать минут."],
  ["ru", "Сказка", "За синим лесом жил старый мастер, который умел чинить всё на свете, кроме времени."],
  ["ru", "Объявление", "Внимание! Поезд до Санкт-Петербурга отправляется с третьего пути. Займите, пожалуйста, свои места."],
  ["en", "Assistant", "Good morning! You have two meetings today, and the rain should stop before lunch."],
  ["en", "Story", "The lighthouse had been dark for forty years, until one November night someone lit the lamp."],
  ["en", "Announcement", "Your attention, please. The train to Edinburgh is now boarding at platform three."],
];
